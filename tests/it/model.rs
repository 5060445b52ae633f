//! Any sequence of calls, against a plain `Vec<u8>`: whatever is opened, read, kept, dropped, closed or limited, each
//! byte is the file's, no error comes that should not, and in the end nothing is mapped.

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
