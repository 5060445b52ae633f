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
        one_loader_of_three,
        an_abandoned_load_leaves_the_slot_vacant,
        loaders_take_turns,
        take_release_against_retire,
        retire_and_load_again,
        two_evictors,
        clone_against_drain,
        join_against_load,
        last_release_against_drain,
        drain_against_load,
        a_refused_take_leaves_nothing,
        restore_against_drain,
        restore_against_retire,
        detached_goes_with_its_last_client,
        all_pairs_beside_a_reader,
        all_pairs_beside_an_evictor,
        all_pairs_beside_a_client;
    file:
        no_release_touches_a_slot_that_is_gone,
        a_mapping_keeps_its_file,
        an_evictor_against_the_end_of_a_file,
        two_evictors_of_a_file_without_handles,
        a_restored_slot_may_be_gone,
        a_new_length_against_a_load,
        a_new_length_against_retire_and_load,
        a_new_length_against_an_abandoned_load;
    ring:
        a_seat_has_one_owner,
        new_seats_are_different,
        leave_against_seat,
        who_looks_sees_what_sits;
    ranges:
        what_is_nobodys_is_not_found,
        a_look_up_beside_a_change,
        two_meet_a_hole,
        who_reads_what_was_filled_is_told,
        a_note_goes_with_its_range;
    words:
        the_last_holder_sees_all,
        who_counts_none_sees_all,
        a_settled_number_or_a_place_that_is_found,
        a_published_number_brings_what_came_before;
    budget:
        never_above_the_limit,
        never_above_the_limit_of_three,
        an_evicted_window_makes_room,
        who_holds_bytes_in_flight_is_counted,
        what_is_handed_over_stays_reserved,
        what_came_back_is_unmapped,
        what_came_back_is_unmapped_also_for_who_overcommits,
        a_lowered_limit_holds,
        a_limit_is_lowered_while_readers_take,
        who_is_in_flight_is_counted;
    signal:
        no_wake_is_lost,
        a_wake_brings_what_came_before,
        a_wake_when_the_time_is_over,
        a_stop_brings_what_came_before,
        a_stop_when_the_time_is_over,
        who_is_stopped_sees_why,
        a_stop_always_ends_it;
}
