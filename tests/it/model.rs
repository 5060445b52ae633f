//! Random sequences of calls, compared with a plain `Vec<u8>`. Every byte is the file's, every error has a reason, and
//! nothing stays mapped in the end.

mod world;

use proptest::collection::vec;
use proptest::prelude::*;

use world::{World, op, setup};

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        max_shrink_time: 60_000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn random_calls_read_like_a_vector(setup in setup(), ops in vec(op(), 1..80)) {
        let mut world = World::new(setup);
        for op in &ops {
            world.run(op);
        }
        world.end();
    }
}
