//! The conformance suite of stores: the sentences, and which of them a backend must keep.
//!
//! A backend's file says how a test gets a database ([`Database`](crate::backend::Database)) and
//! writes one line, `exercise_store!(crate::mine::on_mine, ability …)`: each sentence becomes a
//! test of that backend. Of these abilities it declares what it can:
//!
//! - `one_process`: the database is one herald process's own, and another one is told so;
//! - `many_processes`: any number of processes work on it, and one of them leads.

/// Makes a test of each sentence that a backend with these abilities must keep.
macro_rules! exercise_store {
    (@every $on:path) => {
        exercise_store! { @tests $on;
            emitting {
                a_batch_is_answered_in_its_order_with_ids_that_grow
                an_id_that_is_emitted_again_gets_the_first_answer
                an_idempotency_key_that_is_used_again_gets_the_first_answer
                an_idempotency_key_belongs_to_its_tenant
                a_repetition_within_a_batch_is_one_event
                another_tenants_id_is_a_conflict_and_nothing_of_the_batch_is_stored
                an_event_reads_back_as_it_was_emitted
                plain_inserts_become_events
                names_that_would_break_something_are_refused
            }
            sequencing {
                the_feed_is_dense_and_in_the_order_of_the_commits
                each_event_moves_to_the_feed_once
                an_outbox_row_that_is_inserted_again_is_dropped
                one_leads_at_a_time
                the_backlog_is_what_waits
                an_epoch_is_replaced_once
                what_was_committed_is_there_after_a_reopening
            }
            reading {
                the_feed_is_read_after_a_place_and_up_to_a_limit
                a_page_holds_one_tenants_events_of_the_wanted_types
                a_page_can_begin_with_the_newest
                cursors_resolve_to_their_place
                cursors_that_name_nothing_of_the_tenant_are_unknown
                a_cursor_to_an_event_that_is_not_sequenced_waits
                the_latest_event_is_the_tenants_last_one_up_to_a_place
                of_some_types_the_latest_event_is_the_last_one_that_is_not_far_away
                an_event_is_found_by_its_id_sequenced_or_not
            }
            cursors {
                a_cursor_stands_at_the_furthest_of_the_tenants_places_that_it_names
            }
            sinks {
                a_new_sink_begins_at_the_feeds_end_and_stays_where_it_is
                checkpoints_never_go_back_and_never_pass_the_feed
                a_checkpoint_does_not_move_for_a_broker_that_speaks_of_another_history
                a_known_sink_is_paused_and_resumed
            }
            ledger {
                what_is_recorded_is_known_and_shown
                a_final_row_stays_as_it_is
                a_delivery_named_twice_in_a_batch_is_one_row
        a_first_pending_row_takes_nothing_from_the_process_that_was_first
                due_rows_are_taken_once_and_leased
                processes_that_ask_at_once_take_each_due_row_once
                a_stale_outcome_takes_nothing_back
                a_row_is_due_when_its_time_has_come
                the_wait_is_until_the_next_row_is_due
                text_that_no_database_holds_does_not_stop_a_batch
                counts_are_a_sinks_own
            }
            ledger_model {
                a_ledger_is_as_its_model_after_every_step
            }
            dead {
                dead_letters_are_listed_newest_first_up_to_a_limit
                every_filter_narrows
                special_characters_in_filters_mean_themselves
                replay_makes_dead_letters_due_with_all_attempts_before_them
                drop_deletes_what_matches_and_nothing_else
                a_dead_letter_is_told_of_once_and_again_when_it_dies_again
            }
            waiting {
                what_waits_for_a_destination_is_due_when_it_is_hastened
                of_a_lane_only_the_first_is_taken_and_the_next_when_it_is_through
                nothing_of_a_lane_is_taken_beyond_what_is_known_to_be_complete
                a_sweep_lets_go_of_the_first_in_every_lane
            }
            retention {
                an_event_goes_with_its_rows_when_its_time_is_up
                the_numbers_go_on_although_everything_is_gone
                what_is_not_sequenced_stays
                an_event_stays_until_every_known_sink_has_settled_it
                an_event_with_a_pending_delivery_stays_and_holds_those_behind_it
                a_young_event_holds_older_ones_behind_it
                a_dead_letter_holds_its_event_until_it_is_dropped_or_its_own_time_is_up
                no_transaction_deletes_more_than_its_portion
                a_place_that_has_expired_is_unknown_and_the_beginning_is_the_oldest_kept
                an_id_or_key_that_is_emitted_again_after_its_event_has_expired_is_new
                a_sink_that_is_given_up_holds_nothing
                the_oldest_pending_delivery_of_each_sink_is_told
                whatever_happens_the_feed_has_no_hole_and_nothing_unfinished_is_deleted
            }
            subscriptions {
                a_subscription_reads_back_as_it_was_put
                the_same_endpoint_is_replaced_and_keeps_its_id
                subscriptions_are_removed_by_endpoint_and_forgotten_by_id
            }
        }
    };
    (@one_process $on:path) => {
        exercise_store! { @tests $on;
            sequencing {
                another_process_is_told_that_the_database_is_in_use
            }
        }
    };
    (@many_processes $on:path) => {
        exercise_store! { @tests $on;
            sequencing {
                of_many_processes_one_leads
                each_event_moves_to_the_feed_once_whichever_process_leads
            }
        }
    };
    (@tests $on:path; $($module:ident { $($sentence:ident)* })*) => {
        $($(
            #[tokio::test]
            async fn $sentence() {
                $on(crate::$module::$sentence).await;
            }
        )*)*
    };
    ($on:path $(, $ability:ident)*) => {
        mod suite {
            exercise_store! { @every $on }
            $( exercise_store! { @$ability $on } )*
        }
    };
}
