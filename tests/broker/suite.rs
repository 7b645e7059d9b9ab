//! The conformance suite of brokers: the sentences, and which of them a backend must keep.
//!
//! A backend's file says how a test gets a server ([`Server`](crate::bench::Server)) and writes
//! one line, `exercise_broker!(crate::mine::on_mine, ability …)`: each sentence becomes a test of
//! that backend. Of these abilities it declares what it can:
//!
//! - `keeps`: it keeps a copy of the feed, which can lag behind, be trimmed and be lost;
//! - `shared`: the readers of a group may be in many processes, and one may die;
//! - `remote`: it can be out of reach;
//! - `survives`: all three at once, for stories in which all of it happens;
//! - `tells_dead_letters`: whoever listens is told of them.

/// Makes a test of each sentence that a backend with these abilities must keep.
macro_rules! exercise_broker {
    (@every $on:path) => {
        exercise_broker! { @tests $on;
            appending {
                the_head_is_the_end_of_what_was_appended
                an_append_may_be_repeated
                a_witness_names_the_event_that_the_feed_has_in_its_place
            }
            following {
                a_follower_sees_every_event_after_its_place_in_order
                followers_and_groups_do_not_take_from_each_other
                a_batch_is_no_larger_than_asked_for
                with_nothing_to_read_next_returns_after_a_while
                a_waiting_reader_gets_what_is_appended_at_once
            }
            groups {
                a_group_begins_after_its_checkpoint
                a_group_that_is_there_goes_on_where_it_was
                a_group_behind_its_checkpoint_moves_there
                of_a_groups_readers_one_gets_each_event
                groups_are_independent
                what_a_dropped_reader_left_is_handed_out_again
                what_a_reader_holds_is_kept_from_the_others
            }
            settling {
                a_group_that_is_not_there_has_settled_nothing
                settled_is_what_comes_before_the_first_open_end
                an_acknowledgement_may_be_repeated
                trimming_takes_nothing_from_those_who_still_need_it
            }
        }
    };
    (@keeps $on:path) => {
        exercise_broker! { @tests $on;
            appending {
                a_stream_that_is_not_there_has_no_head_and_may_begin_anywhere
                an_append_that_would_leave_a_hole_is_refused
                the_head_outlives_what_was_trimmed
            }
            following {
                a_follower_skips_and_repeats_nothing_whatever_becomes_of_the_stream
            }
            losses {
                a_group_gets_in_order_what_the_ceiling_took
                what_was_trimmed_while_it_was_held_is_handed_out_again
                after_a_loss_and_a_refill_from_further_on_everything_arrives
                what_lies_between_the_checkpoint_and_the_streams_beginning_comes_from_the_feed
            }
            epochs {
                a_new_epoch_is_a_new_stream
            }
        }
    };
    (@shared $on:path) => {
        exercise_broker! { @tests $on;
            processes {
                of_all_processes_one_gets_each_event
                a_dead_processes_events_go_to_another
                a_slow_delivery_is_kept_from_other_processes
                every_process_knows_what_is_settled
            }
        }
    };
    (@remote $on:path) => {
        exercise_broker! { @tests $on;
            outages {
                a_follower_goes_on_while_the_server_is_away
                a_groups_reader_goes_on_after_the_server_was_away
            }
        }
    };
    (@survives $on:path) => {
        exercise_broker! { @tests $on;
            outages {
                what_a_process_got_is_its_own_only_as_long_as_it_can_say_so
            }
            story {
                nothing_is_lost_through_cuts_losses_ceilings_and_deaths
            }
        }
    };
    (@tells_dead_letters $on:path) => {
        exercise_broker! { @tests $on;
            dead_letters {
                whoever_listens_is_told_of_dead_letters
            }
        }
    };
    (@tests $on:path; $($module:ident { $($sentence:ident)* })*) => {
        $($(
            #[tokio::test]
            async fn $sentence() {
                crate::bench::bounded($on(crate::$module::$sentence)).await;
            }
        )*)*
    };
    ($on:path $(, $ability:ident)*) => {
        mod suite {
            exercise_broker! { @every $on }
            $( exercise_broker! { @$ability $on } )*
        }
    };
}
