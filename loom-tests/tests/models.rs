//! Runs the models of `smmap_loom_tests::models`; what each proves stands there.

macro_rules! models {
    ($($module:ident: $($model:ident),+;)+) => {
        $(mod $module {
            $(#[test]
            fn $model() {
                smmap_loom_tests::models::$module::$model();
            })+
        })+
    };
}

models! {
    slot:
        one_loader,
        an_abandoned_load_leaves_the_slot_vacant,
        take_release_against_retire,
        retire_and_load_again,
        two_evictors,
        last_release_against_drain,
        drain_against_load,
        a_refused_take_leaves_nothing,
        restore_against_drain,
        detached_goes_with_its_last_client;
    budget:
        never_above_the_limit,
        a_lowered_limit_holds;
    signal:
        no_wake_is_lost,
        a_stop_always_ends_it;
}
