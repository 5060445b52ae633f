//! Small steps: many short reads, in sequence or at random in one window, through the traits of `std::io`.
//!
//! The comparison is `BufReader<File>` with its own default buffer. It copies each byte once from the page cache; most
//! of its steps are a comparison and a copy. *Fresh* includes the build of the manager, the first map and the last
//! unmap; *kept* does not. As the warm scans, these rows compare processor time.

use std::fs::File;
use std::hint::black_box;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};

use smmap::{Cursor, MapManager, MappedFile};

use crate::Run;
use crate::report::{Chapter, Finding, Times};
use crate::support::{Data, MIB, Outcome, Race, Rng, Target, build, timed};

/// One kind of step. The functions return a sum over the bytes that they read.
struct Row {
    name: &'static str,
    buffered: fn(&mut BufReader<File>) -> u64,
    cursor: fn(&mut Cursor) -> u64,
    /// The target of the cursor's time, relative to that of `BufReader`.
    target: Target,
}

const ROWS: [Row; 4] = [
    Row { name: "read_exact of 16 B", buffered: exact, cursor: exact, target: Target::AtMost(1.1) },
    Row { name: "read_until", buffered: until, cursor: until, target: Target::AtMost(1.0) },
    Row { name: "fill_buf and consume of 8 B", buffered: fill, cursor: fill, target: Target::AtMost(1.0) },
    Row { name: "seek and read of 30 B", buffered: seek, cursor: seek, target: Target::AtMost(1.0) },
];

const SEEKS: u64 = 200_000;

pub(crate) fn run(run: &Run) -> Option<Chapter> {
    let rows: Vec<&Row> = ROWS.iter().filter(|row| run.wants(&format!("small steps/{}", row.name))).collect();
    if rows.is_empty() {
        return None;
    }
    let data = Data::of_len(run.size(64 * MIB, 16 * MIB));
    let mut chapter = Chapter::new("Small steps");
    chapter.note(format!(
        "A lap reads a warm file of {} MiB once, or makes {SEEKS} seeks in its first MiB. All variants are compiled from \
         the same generic function. smmap has its defaults. *Fresh* includes the build of the manager, the first map \
         and the last unmap. The findings compare processor time.",
        data.len() >> 20
    ));
    let manager = build(MapManager::builder());
    let kept = manager.open(data.path()).expect("the data opens");
    let outcomes: Vec<(String, Outcome)> =
        rows.iter().map(|row| (row.name.to_owned(), race(run, row, &data, &kept))).collect();
    for (row, (_, outcome)) in rows.iter().zip(&outcomes) {
        for name in ["cursor, fresh", "cursor, kept"] {
            let ratio = outcome.work_ratio(name, "BufReader", |_| true);
            chapter.finding(Finding::new(row.name, format!("{name} / BufReader"), ratio, row.target));
        }
    }
    let outcomes: Vec<(String, &Outcome)> = outcomes.iter().map(|(name, outcome)| (name.clone(), outcome)).collect();
    chapter.times(Times::of_races("Time of a lap (× BufReader)", &outcomes, "BufReader"));
    Some(chapter)
}

fn race(run: &Run, row: &Row, data: &Data, kept: &MappedFile) -> Outcome {
    let expected = (row.buffered)(&mut BufReader::new(data.open()));
    let check = |name: &str, sum: u64| assert_eq!(sum, expected, "{name} read other bytes");
    let race = Race::new(row.name, data)
        .variant("BufReader", 1, |_| timed(|| check("BufReader", (row.buffered)(&mut BufReader::new(data.open())))))
        .variant("cursor, fresh", 1, |_| {
            timed(|| {
                let file = build(MapManager::builder()).open(data.path()).expect("the data opens");
                check("a fresh cursor", (row.cursor)(&mut file.cursor()));
            })
        })
        .variant("cursor, kept", 1, |_| timed(|| check("a cursor", (row.cursor)(&mut kept.cursor()))));
    run.race(race, 12)
}

fn exact(reader: &mut impl Read) -> u64 {
    let (mut bytes, mut sum) = ([0; 16], 0_u64);
    while reader.read_exact(&mut bytes).is_ok() {
        sum = sum.wrapping_add(u64::from(black_box(&bytes)[8]));
    }
    sum
}

fn until(reader: &mut impl BufRead) -> u64 {
    let (mut piece, mut sum) = (Vec::new(), 0_u64);
    while reader.read_until(b'\n', &mut piece).expect("bytes of the data") > 0 {
        sum = sum.wrapping_add(u64::from(black_box(&piece)[0]) + piece.len() as u64);
        piece.clear();
    }
    sum
}

fn fill(reader: &mut impl BufRead) -> u64 {
    let mut sum = 0_u64;
    while let [first, rest @ ..] = black_box(reader.fill_buf().expect("bytes of the data")) {
        sum = sum.wrapping_add(u64::from(*first));
        let step = 1 + rest.len().min(7);
        reader.consume(step);
    }
    sum
}

fn seek(reader: &mut (impl Read + Seek)) -> u64 {
    let (mut rng, mut bytes, mut sum) = (Rng::new(5), [0; 30], 0_u64);
    for _ in 0..SEEKS {
        reader.seek(SeekFrom::Start(rng.below(MIB - bytes.len() as u64))).expect("an offset in the data");
        reader.read_exact(&mut bytes).expect("bytes of the data");
        sum = sum.wrapping_add(u64::from(black_box(&bytes)[29]));
    }
    sum
}
