"""
The faults that the client and its fleet must survive: the package's response to each, and the tests that show it.

``python tools/fault_tables.py`` makes ``docs/fault-tables.md`` of it. A test is named by its file below ``tests`` and
its function, without parameters. A row without tests has a reason.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

__all__ = ["CLIENT", "FLEET", "Row"]


@attrs.frozen(kw_only=True)
class Row:
    """
    A fault and the response to it.

    Attributes:
        number: The number of the row in its table, from 1.

        when: The fault.

        where: The part that fails: transport, socket, journal, process, clock, callback, download, or database.

        then: The response of the package.

        tests: The tests that show it.

        reason: The reason why the row, or a part of it, is not tested; empty if it is.
    """

    number: int
    when: str
    where: str
    then: str
    tests: Sequence[str] = ()
    reason: str = ""


def _no_redis(number: int, when: str, instead: str) -> Row:
    """Return a row of a limiter in Redis, which this package does not have."""
    reason = f"The package does not use Redis: the limit is in the journal. {instead}"
    return Row(number=number, when=when, where="database", then="Cannot occur.", reason=reason)


#: The faults of one client.
CLIENT: Sequence[Row] = (
    Row(
        number=1,
        when="The service refuses every create with 429 for ten minutes.",
        where="transport",
        then="Creates become probes with longer and longer pauses. No job is lost or overtaken, and the first create"
        " is accepted within a window of the last refusal.",
        tests=(
            "client/test_refusals.py::test_client_recovers_within_a_window_of_last_429",
            "client/test_refusals.py::test_429_pauses_client_once_and_keeps_order",
            "io/test_admission.py::test_probes_continue_while_all_creates_are_refused",
            "core/test_adaptive_bucket.py::test_blackout_pauses_are_1_2_4_up_to_a_window",
        ),
    ),
    Row(
        number=2,
        when="429 although the client is below its limit: another program uses the account.",
        where="transport",
        then="The limit shrinks at once and grows again by single probes. The refused jobs keep their place.",
        tests=(
            "client/test_refusals.py::test_shared_account_costs_few_429_and_no_job",
            "core/test_adaptive_bucket.py::test_three_independent_clients_share_an_account",
            "core/test_adaptive_bucket.py::test_single_refusals_in_their_windows_expire_single_tokens",
        ),
    ),
    Row(
        number=3,
        when="Maintenance (455) for an hour.",
        where="transport",
        then="One probe a minute for the whole account, within `maintenance_timeout`; then all jobs are sent.",
        tests=(
            "client/test_refusals.py::test_hour_of_maintenance_is_waited_out",
            "client/test_shared_limits.py::test_maintenance_for_an_hour_is_probed_once_a_minute",
            "client/test_refusals.py::test_caller_timeout_ends_maintenance_wait",
        ),
    ),
    Row(
        number=4,
        when="A burst of 500 on creates.",
        where="transport",
        then="Such a create may have been accepted. It is sent again as often as `server_error_attempts` allows, under"
        " another attempt number, and each ambiguous attempt is counted, reported and reserved in the budget.",
        tests=(
            "client/test_refusals.py::test_ambiguous_500_is_retried_with_new_attempt_number",
            "client/test_refusals.py::test_three_ambiguous_500s_end_in_server_error",
            "client/test_refusals.py::test_on_server_error_in_doubt_never_retries",
            "client/test_map_budget.py::test_every_ambiguous_attempt_is_reserved",
        ),
    ),
    Row(
        number=5,
        when="A 500 although the task was created and charged.",
        where="transport",
        then="The callback names the task: it prevents the next attempt, or revives the job that was given up.",
        tests=(
            "client/test_callbacks_in_doubt.py::test_a_callback_before_the_retry_prevents_it",
            "client/test_callbacks_in_doubt.py::test_a_callback_during_the_second_create",
            "client/test_callbacks_in_doubt.py::test_a_late_callback_revives_a_rejected_job",
        ),
    ),
    Row(
        number=6,
        when="A burst of 500 or 502 on polls.",
        where="transport",
        then="The job stays as it is and is polled again. No such answer makes a job failed.",
        tests=(
            "client/test_polling.py::test_an_unreadable_poll_changes_nothing",
            "io/test_poller.py::test_a_failed_poll_is_unreadable_and_repeated",
            "core/test_poll_results.py::test_other_answers_are_unreadable",
        ),
    ),
    Row(
        number=7,
        when="The HTML page of a gateway, with status 200 or 5xx.",
        where="transport",
        then="The create is in doubt and is not sent again; the poll is repeated. Callers get typed errors only.",
        tests=(
            "client/test_lost_answers.py::test_lost_response_is_reported_and_not_resent",
            "client/test_polling.py::test_an_unreadable_poll_changes_nothing",
            "client/test_gateways.py::test_a_table_survives_each_odd_answer_at_each_place",
            "core/test_verdicts.py::test_unreadable_answers_keep_their_first_bytes",
        ),
    ),
    Row(
        number=8,
        when="Code 200 with `data: null`, without a task id, or with a number as its id.",
        where="transport",
        then="An id that is a number is accepted. Without an id the create is in doubt.",
        tests=(
            "core/test_verdicts.py::test_every_body_and_status_has_its_verdict",
            "client/test_lost_answers.py::test_lost_response_is_reported_and_not_resent",
            "client/test_lost_answers.py::test_numeric_id_or_bad_status_is_accepted",
        ),
    ),
    Row(
        number=9,
        when="HTTP 200 with another code in the body.",
        where="transport",
        then="The code in the body decides; every pair of a status and a body has a verdict.",
        tests=(
            "core/test_verdicts.py::test_every_body_and_status_has_its_verdict",
            "core/test_poll_results.py::test_refusals_are_judged_by_body_then_status",
            "client/test_refusals.py::test_http_status_makes_no_difference",
        ),
    ),
    Row(
        number=10,
        when="HTTP 401, 403 or 500 with code 200 and a task id in the body.",
        where="transport",
        then="The task exists, so the create is accepted and the id is journaled.",
        tests=(
            "client/test_lost_answers.py::test_numeric_id_or_bad_status_is_accepted",
            "core/test_verdicts.py::test_every_body_and_status_has_its_verdict",
        ),
    ),
    Row(
        number=11,
        when="JSON that breaks off, with the length that was announced.",
        where="transport",
        then="The create is in doubt and is not sent again. If the part names a task, `recordInfo` says whose it is.",
        tests=(
            "client/test_lost_answers.py::test_lost_response_is_reported_and_not_resent",
            "client/test_lost_answers_journaled.py::test_fifty_lost_responses_are_never_resent",
            "client/test_named_tasks.py::test_a_task_in_an_answer_that_breaks_off_is_bound",
            "io/test_transport.py::test_truncated_json_is_a_response",
        ),
    ),
    Row(
        number=12,
        when="Broken gzip, a wrong charset, a byte order mark, names that occur twice, NaN, or a body without end.",
        where="socket",
        then="What can be read without a guess is read; anything else leaves the create in doubt. A body is read up to"
        " its bound, after decompression too.",
        tests=(
            "io/test_transport.py::test_any_error_after_write_ahead_counts_as_sent",
            "io/test_transport.py::test_body_is_bounded",
            "core/test_wire.py::test_is_read_from_a_json_object",
            "core/test_wire.py::test_other_bodies_are_none",
            "core/test_wire.py::test_no_body_raises",
        ),
    ),
    Row(
        number=13,
        when="A response that arrives byte by byte.",
        where="socket",
        then="The total timeout of a minute ends the wait, and the create is in doubt.",
        tests=(
            "io/test_transport.py::test_any_error_after_write_ahead_counts_as_sent",
            "client/test_lost_answers.py::test_lost_response_is_reported_and_not_resent",
        ),
    ),
    Row(
        number=14,
        when="The host name is unknown, or its lookup is slow.",
        where="socket",
        then="Nothing was sent, so the create is repeated within `unsent_timeout`.",
        tests=(
            "io/test_transport.py::test_unknown_host_name_sends_nothing",
            "io/test_transport.py::test_slow_name_lookup_sends_nothing",
            "client/test_lost_answers.py::test_unsent_timeout_ends_in_transport_error",
        ),
    ),
    Row(
        number=15,
        when="The connection is refused, or a handshake has no answer.",
        where="socket",
        then="Nothing was sent, so the create is repeated within `unsent_timeout`; in the end one create was sent.",
        tests=(
            "io/test_transport.py::test_refused_connection_sends_nothing",
            "io/test_transport.py::test_unanswered_handshake_sends_nothing",
            "client/test_lost_answers.py::test_refused_connection_is_retried",
            "client/test_lost_answers.py::test_unsent_timeout_ends_in_transport_error",
        ),
    ),
    Row(
        number=16,
        when="TLS fails: an untrusted certificate, a handshake that stalls or breaks, an answer in plaintext.",
        where="socket",
        then="Nothing was sent, and nothing is ever sent in plaintext. An untrusted certificate ends the job at once;"
        " the others are repeated.",
        tests=(
            "io/test_transport.py::test_untrusted_certificate_sends_nothing",
            "io/test_transport.py::test_stuck_tls_sends_nothing",
            "io/test_transport.py::test_handshake_that_breaks_sends_nothing",
            "io/test_transport.py::test_plaintext_answer_to_tls_sends_nothing",
        ),
    ),
    Row(
        number=17,
        when="The connection is reset on accept, after the headers, or while the body is sent.",
        where="socket",
        then="A byte may have arrived: the create is in doubt and is not sent again.",
        tests=(
            "io/test_transport.py::test_any_error_after_write_ahead_counts_as_sent",
            "client/test_lost_answers.py::test_connection_broken_before_read_is_in_doubt",
        ),
    ),
    Row(
        number=18,
        when="The connection ends after the whole request.",
        where="socket",
        then="The create is in doubt until a callback settles it; one task is paid.",
        tests=(
            "io/test_transport.py::test_any_error_after_write_ahead_counts_as_sent",
            "client/test_lost_answers.py::test_lost_response_is_reported_and_not_resent",
            "client/test_callbacks_in_doubt.py::test_callbacks_settle_fifty_jobs_in_doubt",
        ),
    ),
    Row(
        number=19,
        when="The connection ends within the status line or the body of the response.",
        where="socket",
        then="The create is in doubt and is not sent again.",
        tests=(
            "io/test_transport.py::test_any_error_after_write_ahead_counts_as_sent",
            "client/test_lost_answers.py::test_lost_response_is_reported_and_not_resent",
        ),
    ),
    Row(
        number=20,
        when="The service closes a connection that was kept open, just as it is used again.",
        where="socket",
        then="The create is in doubt and is not repeated on another connection, as aiohttp would do with a GET.",
        tests=("io/test_transport.py::test_dead_connection_is_not_retried",),
    ),
    Row(
        number=21,
        when="A redirect (301, 302, 303, 307, 308) as the answer to a create.",
        where="socket",
        then="It is not followed. If the whole host answers so, the base URL is wrong, and the job is rejected.",
        tests=(
            "io/test_transport.py::test_redirect_is_not_followed",
            "client/test_lost_answers_journaled.py::test_fifty_redirects_are_fifty_rejections",
            "client/test_refusals.py::test_permanent_rejection_is_not_retried",
        ),
    ),
    Row(
        number=22,
        when="The proxy in front of the service refuses the program (403, error 1010).",
        where="transport",
        then="The job is rejected with an error that names the User-Agent, and not as if the API key was wrong.",
        tests=(
            "client/test_refusals.py::test_proxy_403_is_not_an_authentication_error",
            "core/test_verdicts.py::test_the_proxys_refusal_is_not_a_bad_key",
            "core/test_verdicts.py::test_other_texts_with_that_number_are_a_bad_key",
        ),
    ),
    Row(
        number=23,
        when="The wall clock is set by a day, or by seconds, in either direction.",
        where="clock",
        then="Timeouts, windows and deadlines of running jobs follow the clock of the loop and do not move. Ids do not"
        " depend on it. Signatures that seem too old or too new are refused, and polls find the ends.",
        tests=(
            "client/test_clock_steps.py::test_steps_of_the_wall_clock_move_no_deadline",
            "client/test_callbacks_signed.py::test_an_invalid_signature_is_401_and_polling_works",
            "core/test_callback_validation.py::test_a_stale_signature_tells_the_clock_difference",
        ),
    ),
    Row(
        number=24,
        when="The machine is suspended for an hour.",
        where="clock",
        then="No burst follows: the limit holds. Creates on the wire are in doubt at worst. A task that is older than"
        " `max_age` by then is polled before its wait ends.",
        tests=(
            "client/test_clock_steps.py::test_suspended_machine_exceeds_no_limit_and_loses_no_task",
            "client/test_clock_steps.py::test_wait_that_was_suspended_past_max_age_polls_first",
            "io/test_token_supply.py::test_worker_that_was_frozen_does_not_send_with_an_old_lease",
        ),
    ),
    Row(
        number=25,
        when="Other code blocks the event loop for 30 s.",
        where="clock",
        then="No job is in doubt because of it, and no window has too many creates. A worker whose lease has ended"
        " meanwhile says so once.",
        tests=(
            "client/test_clock_steps.py::test_blocked_event_loop_causes_no_doubt",
            "io/test_admission.py::test_permit_expires",
            "postgres/test_takeovers.py::test_blocked_event_loop_is_reported_once",
        ),
    ),
    Row(
        number=26,
        when="A callback before the response to its create.",
        where="callback",
        then="The job is bound to the task from its token; the response that follows changes nothing.",
        tests=(
            "client/test_callbacks.py::test_a_callback_before_the_create_response",
            "client/test_callbacks.py::test_submit_returns_after_an_early_callback",
            "client/test_callbacks.py::test_an_early_callback_overrides_the_create_response",
        ),
    ),
    Row(
        number=27,
        when="Callbacks are lost.",
        where="callback",
        then="Polls that have never stopped find the end; how often they are needed is learned.",
        tests=(
            "client/test_callbacks_fallback.py::test_a_lost_callback_costs_seconds",
            "client/test_callbacks_fallback.py::test_all_jobs_end_if_every_callback_is_lost",
            "core/test_polling.py::test_a_task_with_a_callback_is_polled_at_last",
        ),
    ),
    Row(
        number=28,
        when="A callback twice, or a hundred times.",
        where="callback",
        then="Each is answered with 200. One confirmation is sent at a time, and the job ends once.",
        tests=(
            "client/test_callbacks.py::test_a_hundred_copies_end_the_job_once",
            "client/test_callbacks.py::test_a_hundred_callbacks_at_once_are_confirmed_once",
        ),
    ),
    Row(
        number=29,
        when="A callback hours late, or after the end of its job.",
        where="callback",
        then="It is answered with 200 and changes nothing; a stalled job ends by it.",
        tests=(
            "client/test_callbacks.py::test_a_callback_hours_after_the_end_changes_nothing",
            "client/test_callbacks.py::test_a_stalled_job_ends_by_its_late_callback",
        ),
    ),
    Row(
        number=30,
        when="A forged callback: without a token, with a wrong one, or with that of another attempt.",
        where="callback",
        then="It is refused with 404 or 401, and causes no request.",
        tests=(
            "core/test_callback_token.py::test_a_token_with_one_edit_is_refused",
            "core/test_callback_token.py::test_a_mac_covers_job_and_attempt",
            "client/test_callbacks.py::test_an_unknown_job_is_404_without_a_poll",
            "hostile/test_siege.py::test_hostile_requests_do_no_harm_without_signatures",
        ),
    ),
    Row(
        number=31,
        when="A forged body with a genuine signature of the service.",
        where="callback",
        then="The body is not believed: a poll decides.",
        tests=(
            "client/test_callbacks_signed.py::test_a_signature_is_valid_for_its_own_task_only",
            "client/test_callbacks_in_doubt.py::test_a_forged_callback_does_not_change_a_known_task",
            "client/test_stateful_client.py::test_planted_bug_is_found",
        ),
    ),
    Row(
        number=32,
        when="The id of a real task of the account that is another job's.",
        where="callback",
        then="Its record echoes another token, so the job is not bound to it.",
        tests=(
            "client/test_callbacks_in_doubt.py::test_forged_callbacks_with_foreign_tasks_bind_nothing",
            "client/test_stateful_client.py::test_planted_bug_is_found",
        ),
    ),
    Row(
        number=33,
        when="A callback for a job of another process, of another machine, or of no journal here.",
        where="callback",
        then="Any process of the journal confirms it, and the owner learns of it; a job that is not in the journal is"
        " 404.",
        tests=(
            "client/test_callbacks_workers.py::test_a_callback_at_another_worker_ends_the_job",
            "client/test_callbacks_workers.py::test_a_callback_for_a_dead_workers_job_is_journaled",
            "client/test_callbacks_other_process.py::test_a_callback_for_another_process_is_not_lost",
            "client/test_callbacks.py::test_an_unknown_job_is_404_without_a_poll",
        ),
    ),
    Row(
        number=34,
        when="A thousand callbacks a second.",
        where="callback",
        then="They wait in a queue of one confirmation for each job. Planned polls keep their share, the memory is"
        " bounded, and each end is seen within 15 s.",
        tests=(
            "hostile/test_flood.py::test_a_flood_starves_no_polls_and_fills_no_memory",
            "client/test_callback_floods.py::test_a_flood_is_queued_and_confirmed_in_order",
        ),
    ),
    Row(
        number=35,
        when="The receiver of callbacks is away, or refuses them all.",
        where="callback",
        then="The service gives up after three attempts, and polls find every end.",
        tests=(
            "client/test_callbacks_fallback.py::test_all_jobs_end_if_every_callback_is_refused",
            "client/test_callbacks_signed.py::test_an_invalid_signature_is_401_and_polling_works",
            "client/test_callbacks_workers.py::test_a_journal_failure_answers_503_until_it_works",
        ),
    ),
    Row(
        number=36,
        when="A callback whose body is huge, slow, deep, or not UTF-8.",
        where="callback",
        then="It is refused with 400, 408 or 413 and its connection is closed; no body is decoded before its token is"
        " known.",
        tests=(
            "hostile/test_siege.py::test_hostile_requests_do_no_harm_with_signatures",
            "hostile/test_siege.py::test_every_kind_of_attack_goes_to_both_adapters",
            "client/test_callback_bodies.py::test_no_body_is_decoded",
        ),
    ),
    Row(
        number=37,
        when="`kill -9` at any step of the journal or of a request.",
        where="process",
        then="The next process resumes each job. No task is paid twice, and none is forgotten.",
        tests=(
            "real_time/crash/test_kill_sweep.py::test_kill_neither_pays_twice_nor_loses_a_task",
            "real_time/crash/test_kill_sweep.py::test_two_processes_may_replace_one",
            "real_time/crash/test_kill_sweep.py::test_sweep_finds_planted_bugs",
        ),
    ),
    Row(
        number=38,
        when="A power cut: what was not synced is lost.",
        where="journal",
        then="No write that was acknowledged is lost, and the file is valid.",
        tests=(
            "system_tools/test_power_cut.py::test_power_cut_loses_no_acknowledged_move",
            "system_tools/test_power_cut.py::test_power_cut_leaves_no_file_or_a_valid_one",
            "system_tools/test_power_cut.py::test_check_finds_a_journal_without_sync",
        ),
    ),
    Row(
        number=39,
        when="The disk is full at any write of a job.",
        where="journal",
        then="Before the create, nothing is sent. After it, the task id reaches the caller and the log, and the write"
        " is repeated.",
        tests=(
            "client/test_journal.py::test_unwritable_intent_is_not_started",
            "client/test_journal.py::test_unwritable_sending_state_sends_nothing",
            "client/test_journal.py::test_unwritable_task_id_still_reaches_caller",
            "client/test_journal.py::test_unwritable_result_still_reaches_caller",
            "client/test_journal_failures.py::test_any_failed_write_is_safe",
            "client/test_journal_failures.py::test_full_disk_sends_nothing_and_keeps_results",
            "system_tools/test_sqlite_faults.py::test_full_disk_keeps_acknowledged_moves_only",
        ),
    ),
    Row(
        number=40,
        when="A write of the journal takes 40 s.",
        where="journal",
        then="A token that has become too old meanwhile is not used, so no window has too many creates.",
        tests=(
            "client/test_journal.py::test_slow_disk_does_not_bunch_creates",
            "client/test_journal.py::test_slow_journal_does_not_block_wait_forever",
            "io/test_admission.py::test_permit_expires",
        ),
    ),
    Row(
        number=41,
        when="The journal is locked, read-only, damaged, of a newer version, or replaced while it is used.",
        where="journal",
        then="A typed error says so. Nothing is sent, and no file is made anew in its place.",
        tests=(
            "io/test_sqlite_files.py::test_locked_file_is_reported",
            "io/test_sqlite_files.py::test_read_only_folder_is_refused",
            "io/test_sqlite_files.py::test_broken_page_is_reported",
            "io/test_sqlite_files.py::test_zeroed_journal_is_not_recreated",
            "io/test_sqlite_files.py::test_newer_journal_is_not_changed",
            "io/test_restoration.py::test_file_that_was_replaced_is_not_used",
            "client/test_journal_failures.py::test_unusable_journal_fails_every_call",
        ),
        reason="A copy of the journal at another path cannot be told from the original, so two processes with a copy"
        " each may both send its unsent jobs.",
    ),
    Row(
        number=42,
        when="Two processes open one journal.",
        where="process",
        then="They share it: each job has one owner, and each row is paid once.",
        tests=(
            "client/test_map_restarts.py::test_two_processes_pay_each_row_once",
            "client/test_journal_failures.py::test_two_clients_share_one_sqlite_journal",
            "io/test_sqlite_files.py::test_rows_of_a_closed_store_are_claimed_once",
            "real_time/crash/test_fleet.py::test_fleet_ends_all_jobs_despite_a_kill",
        ),
    ),
    _no_redis(43, "Redis is away.", "A journal that is away is row 7 of the fleet."),
    _no_redis(44, "Redis is slow, or an answer of it is lost.", "A COMMIT without an answer is row 9 of the fleet."),
    _no_redis(45, "A failover of Redis loses writes.", "A failover of PostgreSQL is rows 11 to 13 of the fleet."),
    _no_redis(46, "Redis evicts keys or loses scripts.", "Rows that are lost are row 25 of the fleet."),
    _no_redis(47, "The clock of Redis differs.", "The clock of PostgreSQL is row 15 of the fleet."),
    Row(
        number=48,
        when="A caller is cancelled while its job waits for a slot, a token or the journal.",
        where="clock",
        then="Nothing is left behind: the slot and the token are free for the next job.",
        tests=(
            "client/test_cancellation.py::test_submit_cancelled_at_every_loop_turn",
            "client/test_cancellation.py::test_cancelled_queued_jobs_consume_no_token",
            "client/test_journal.py::test_cancel_during_write_ahead_pays_nothing",
            "io/test_slots.py::test_no_slot_is_lost_or_created_in_a_storm",
            "io/test_admission.py::test_permit_granted_while_cancelled_is_returned",
        ),
    ),
    Row(
        number=49,
        when="A worker ends while it holds tokens and slots.",
        where="process",
        then="Its token leases expire and count as used, and its slots are free once its own lease has ended.",
        tests=(
            "io/test_token_supply.py::test_worker_that_disappears_costs_little",
            "core/test_account_state.py::test_lease_without_word_expires_and_counts_by_then",
            "client/test_shares.py::test_workers_share_the_slots_of_the_account",
            "fleet/test_workers.py::test_jobs_of_a_killed_worker_end",
        ),
    ),
    Row(
        number=50,
        when="The service lowers the limit in the middle of a batch.",
        where="transport",
        then="The new limit is learned in one window, and used; it is probed about once a minute.",
        tests=(
            "client/test_limits.py::test_limit_that_is_lowered_midway_is_learned_and_used",
            "client/test_limits.py::test_lower_limit_is_learned_and_used",
            "core/test_adaptive_bucket.py::test_ten_minutes_at_another_limit",
            "core/test_adaptive_bucket.py::test_refusals_in_a_window_reveal_a_much_lower_limit",
        ),
    ),
    Row(
        number=51,
        when="The credits are used up in the middle of a batch (402).",
        where="transport",
        then="The queue pauses and its callers get one error each. Jobs with a key are kept, and are sent after a"
        " top-up.",
        tests=(
            "client/test_refusals.py::test_402_pauses_queue_until_paid",
            "client/test_map_stopping.py::test_empty_account_stops_and_can_be_continued",
        ),
    ),
    Row(
        number=52,
        when="The API key is revoked while jobs run (401).",
        where="transport",
        then="Creates pause. Running tasks are polled again with the next key, and keep their jobs.",
        tests=(
            "client/test_refusals.py::test_account_error_pauses_all_jobs_until_probe_passes",
            "client/test_polling.py::test_a_refused_key_raises_and_the_task_continues",
            "client/test_map_stopping.py::test_revoked_key_ends_the_run_and_loses_nothing",
            "client/test_api_key_change.py::test_running_job_of_the_older_key_is_awaited",
            "client/test_api_key_change.py::test_unsent_jobs_of_the_older_key_wait_for_consent",
        ),
    ),
    Row(
        number=53,
        when="One model is paused (505), or unknown (404).",
        where="transport",
        then="Its jobs are rejected, and the others are not affected.",
        tests=(
            "client/test_refusals.py::test_paused_model_stops_no_other",
            "client/test_refusals.py::test_permanent_rejection_is_not_retried",
        ),
    ),
    Row(
        number=54,
        when="100,000 jobs in one process.",
        where="clock",
        then="The memory follows the jobs at work, all deadlines use one timer, and jobs are sent in their order."
        " `python -m tests.bulk` measures any number.",
        tests=(
            "io/test_timers.py::test_100_000_timers_use_one_timer_of_the_loop",
            "client/test_map_restarts.py::test_long_table_stays_small_and_uses_the_limit",
            "client/test_handles.py::test_recover_yields_to_loop_between_jobs",
            "io/test_admission.py::test_permits_are_granted_by_position",
        ),
    ),
    Row(
        number=55,
        when="A task is queued for days, or its record is not found.",
        where="transport",
        then="The job is stalled after `max_age`, and not failed: its waiters get an error, and it is polled rarely"
        " and may still end.",
        tests=(
            "client/test_polling.py::test_a_job_is_stalled_at_max_age_and_may_still_end",
            "client/test_polling.py::test_an_invisible_task_of_ours_is_stalled_not_failed",
            "client/test_lives.py::test_tasks_that_ended_while_no_process_ran_have_not_timed_out",
            "client/test_handles.py::test_unknown_task_is_not_awaited_forever",
        ),
    ),
    Row(
        number=56,
        when="A record goes back, has an unknown state, or is a success without a result.",
        where="transport",
        then="The first final record counts. An unknown state is polled again; a success is polled for its result, and"
        " then ends with an error that has its task id.",
        tests=(
            "client/test_polling.py::test_the_first_terminal_record_wins",
            "client/test_handles.py::test_updates_show_unknown_states",
            "client/test_polling.py::test_success_before_its_result_is_awaited",
            "client/test_polling.py::test_success_without_a_result_raises",
            "core/test_lifecycle.py::test_transitions_are_those_of_the_design",
        ),
    ),
    Row(
        number=57,
        when="The URL of a result has expired, or leads to a part, a page, or a file of the wrong length.",
        where="download",
        then="The file is right or absent. An expired URL is renewed once; what the service has deleted is named so.",
        tests=(
            "client/test_result_urls.py::test_expired_url_is_renewed_once",
            "client/test_result_urls.py::test_deleted_result_is_reported",
            "client/test_results.py::test_broken_download_leaves_no_file",
            "client/test_results.py::test_mislabeled_file_is_not_kept",
            "client/test_results.py::test_truncated_file_is_not_kept",
            "client/test_downloads_resumed.py::test_wrong_range_response_is_not_written",
        ),
    ),
    Row(
        number=58,
        when="Ctrl-C or SIGTERM in any state.",
        where="process",
        then="Creates on the wire are awaited for at most the drain; the next process resumes the rest.",
        tests=(
            "real_time/crash/test_signals.py::test_signal_interrupts_no_create",
            "real_time/crash/test_signals.py::test_missing_response_delays_shutdown_by_the_drain",
            "real_time/crash/test_signals.py::test_jobs_past_a_deadline_survive_their_process",
        ),
    ),
    Row(
        number=59,
        when="A fork after the client was created.",
        where="process",
        then="Every use in the child is an error that says so; the parent works as before.",
        tests=(
            "real_time/test_forks.py::test_each_use_after_a_fork_is_an_error",
            "real_time/test_lives.py::test_use_after_a_fork_is_an_error",
        ),
    ),
    Row(
        number=60,
        when="A caller's timeout is shorter than its paid task.",
        where="clock",
        then="The wait ends with an error that has the job id and the task id; the task continues, and can be awaited"
        " again.",
        tests=(
            "client/test_handles.py::test_wait_timeout_leaves_task_running",
            "client/test_cancellation.py::test_timeout_ends_generate_in_every_phase",
        ),
    ),
    Row(
        number=61,
        when="The process crashes a hundred times in a row.",
        where="process",
        then="Each process resumes what the last one left. The number of attempts does not grow.",
        tests=(
            "client/test_takeover.py::test_crashes_in_a_row_add_no_attempts",
            "real_time/crash/test_kill_sweep.py::test_process_may_be_killed_repeatedly",
            "real_time/test_batch_siege.py::test_run_killed_three_times_pays_once",
            "io/test_sqlite_files.py::test_killed_processes_leave_one_lock_file",
        ),
    ),
    Row(
        number=62,
        when="10,000 tasks share ten polls a second.",
        where="clock",
        then="Polls come later for all of them alike, so each task has its turn; confirmations of callbacks and"
        " callers go first, and leave one poll in five to the others.",
        tests=(
            "io/test_poller.py::test_many_tasks_share_the_polls_evenly",
            "io/test_poller.py::test_every_task_has_its_turn",
            "io/test_poller.py::test_urgent_polls_do_not_starve_due_ones",
            "io/test_poller.py::test_polls_never_exceed_the_limit",
        ),
    ),
)

#: The faults of several processes on one journal.
FLEET: Sequence[Row] = (
    Row(
        number=1,
        when="A worker is killed before it has sent a job.",
        where="process",
        then="Another worker sends it, once.",
        tests=(
            "fleet/test_workers.py::test_jobs_of_a_killed_worker_end",
            "fleet/test_kill_sweep_postgres.py::test_kill_neither_pays_twice_nor_loses_a_task",
        ),
    ),
    Row(
        number=2,
        when="It is killed between the write that precedes a create and the first byte.",
        where="process",
        then="The job is in doubt, is never sent again automatically, and is unresolved at its deadline.",
        tests=(
            "fleet/test_kill_sweep_postgres.py::test_kill_neither_pays_twice_nor_loses_a_task",
            "client/test_lost_answers.py::test_job_in_doubt_becomes_unresolved_at_deadline",
        ),
    ),
    Row(
        number=3,
        when="It is killed after the first byte, before the task id is journaled.",
        where="process",
        then="The job is in doubt; a callback at any worker settles it.",
        tests=(
            "fleet/test_kill_sweep_postgres.py::test_kill_neither_pays_twice_nor_loses_a_task",
            "client/test_callbacks_workers.py::test_a_callback_at_another_worker_settles_a_doubt",
            "client/test_takeover.py::test_create_of_a_worker_that_ends_later_becomes_in_doubt",
        ),
    ),
    Row(
        number=4,
        when="It is killed while its task runs.",
        where="process",
        then="Another worker polls the task once the lease has ended, and waiters elsewhere get the result.",
        tests=(
            "fleet/test_workers.py::test_jobs_of_a_killed_worker_end",
            "client/test_takeover.py::test_recover_takes_over_from_workers_that_end_later",
        ),
    ),
    Row(
        number=5,
        when="A worker stands still for longer than its lease, then continues.",
        where="process",
        then="Its writes are refused, a late answer of its create binds the task, and its callers get the results of"
        " the others.",
        tests=(
            "fleet/test_workers.py::test_stopped_worker_pays_nothing_twice",
            "fleet/test_workers.py::test_workers_that_stand_still_by_turns_send_all_jobs",
            "client/test_takeover.py::test_a_worker_that_lost_its_jobs_sends_none_of_them",
            "client/test_takeover.py::test_late_answer_at_a_worker_that_lost_the_job_binds_the_task",
            "client/test_takeover.py::test_result_found_by_a_worker_that_lost_the_job_is_recorded",
        ),
    ),
    Row(
        number=6,
        when="The event loop of a worker is blocked for longer than its lease.",
        where="clock",
        then="As row 5, with one warning.",
        tests=(
            "postgres/test_takeovers.py::test_blocked_event_loop_is_reported_once",
            "postgres/test_takeovers.py::test_worker_whose_jobs_were_taken_over_polls_them_no_more",
        ),
    ),
    Row(
        number=7,
        when="The database is away for 40 s.",
        where="database",
        then="Nothing is sent. Running tasks continue, what was learned is written later, and no living worker loses a"
        " job.",
        tests=(
            "fleet/test_failover.py::test_outage_of_the_database_costs_only_its_time",
            "fleet/test_accidents.py::test_accident_of_the_database_costs_nothing",
            "io/test_token_supply.py::test_nothing_is_sent_while_the_journal_is_away",
            "client/test_callbacks_workers.py::test_a_journal_failure_answers_503_until_it_works",
        ),
    ),
    Row(
        number=8,
        when="The database is away, and the process ends.",
        where="database",
        then="The log has the job id and the task id of everything that could not be written.",
        tests=(
            "client/test_unwritten.py::test_closing_client_logs_every_task_that_is_not_written",
            "client/test_cut_short.py::test_received_task_id_is_logged",
        ),
    ),
    Row(
        number=9,
        when="The database is away at the start.",
        where="database",
        then="`async with` raises `JournalError`, and nothing is sent.",
        tests=(
            "postgres/test_secrets.py::test_a_server_that_is_away_at_start_is_reported_without_the_password",
            "client/test_journal_failures.py::test_unusable_journal_fails_every_call",
        ),
    ),
    Row(
        number=10,
        when="The database is back after all leases have expired.",
        where="database",
        then="No worker takes another one for ended before its own heartbeats have come through again.",
        tests=(
            "postgres/test_session.py::test_worker_that_was_away_takes_no_lease_for_expired",
            "fleet/test_accidents.py::test_accident_of_the_database_costs_nothing",
        ),
    ),
    Row(
        number=11,
        when="Failover to a synchronous standby.",
        where="database",
        then="As row 7.",
        tests=(
            "fleet/test_failover.py::test_failover_to_a_synchronous_standby_costs_nothing",
            "fleet/test_accidents.py::test_accident_of_the_database_costs_nothing",
        ),
    ),
    Row(
        number=12,
        when="Failover to a standby that lags, while the workers are alive.",
        where="database",
        then="The workers write again what was acknowledged to them, before they send anything.",
        tests=(
            "fleet/test_failover.py::test_failover_to_a_lagging_standby_pays_nothing_twice",
            "fleet/test_failover.py::test_without_the_comparison_a_failover_pays_twice",
            "postgres/test_restoration.py::test_lost_rows_are_restored_at_the_next_connection",
        ),
    ),
    Row(
        number=13,
        when="The same, and a worker ends before the database is back.",
        where="database",
        then="What only this worker knew may be paid twice, as the documentation says. A genuine callback brings such"
        " a job back, with a line at CRITICAL level.",
        tests=(
            "client/test_journal_goes_back.py::test_callbacks_bring_back_what_no_process_remembers",
            "core/test_callback_steps.py::test_lost_row_has_what_the_record_shows",
        ),
    ),
    Row(
        number=14,
        when="The old primary is still reachable, and read-only.",
        where="database",
        then="It is left for the server that can be written.",
        tests=(
            "postgres/test_session.py::test_server_that_became_read_only_is_left",
            "fleet/test_failover.py::test_server_that_cannot_be_written_is_away",
        ),
    ),
    Row(
        number=15,
        when="The clock of the database is set.",
        where="database",
        then="The step is noticed and subtracted: no lease ends and no window is exceeded.",
        tests=(
            "fleet/test_failover.py::test_steps_of_the_databases_clock_are_no_steps_of_time",
            "postgres/test_session.py::test_stepped_clock_ends_no_worker",
            "postgres/test_account.py::test_shared_time_never_steps",
        ),
    ),
    Row(
        number=16,
        when="Another, empty database behind the same DSN.",
        where="database",
        then="The id of the journal differs: nothing is made there, and nothing is sent.",
        tests=("postgres/test_session.py::test_another_journal_is_refused_at_reconnecting",),
    ),
    Row(
        number=17,
        when="A pooler in transaction mode.",
        where="database",
        then="Everything works; each worker asks for changes every second, and says so once.",
        tests=(
            "postgres/test_session.py::test_pooler_is_asked_every_second_and_named_once",
            "fleet/test_accidents.py::test_pooler_of_transactions_is_noticed_once",
        ),
    ),
    Row(
        number=18,
        when="Notifications do not arrive.",
        where="database",
        then="A worker that does not hear its own heartbeat connects again, and reads what it may have missed.",
        tests=(
            "postgres/test_session.py::test_silent_connection_is_given_up",
            "postgres/test_session.py::test_new_connection_may_have_missed_changes",
        ),
    ),
    Row(
        number=19,
        when="Two workers write the account's state at once.",
        where="database",
        then="One of them reads it again and repeats its change; each change counts once.",
        tests=(
            "postgres/test_account.py::test_each_of_many_changes_counts",
            "postgres/test_account.py::test_change_counts_once_if_its_answer_is_lost",
        ),
    ),
    Row(
        number=20,
        when="Two versions of the package work side by side.",
        where="database",
        then="The schema and the account's state have a version each, and older code refuses a newer one.",
        tests=(
            "postgres/test_session.py::test_newer_schema_is_refused",
            "core/test_account_state.py::test_text_of_a_newer_version_is_refused",
        ),
        reason="There is one format so far, so no newer version can be seen to write an older one.",
    ),
    Row(
        number=21,
        when="The service takes fewer creates than configured.",
        where="transport",
        then="One refusal lowers the limit of all workers, and one probe at a time tries again.",
        tests=(
            "io/test_token_supply.py::test_lower_limit_is_learned_once_for_all_workers",
            "client/test_shared_limits.py::test_lower_limit_is_learned_once_for_all_clients",
        ),
    ),
    Row(
        number=22,
        when="An account without credits (402), or maintenance (455).",
        where="transport",
        then="One worker learns of it, all of them stop, and one create a minute probes for the account.",
        tests=(
            "client/test_shared_limits.py::test_account_without_credits_refuses_only_what_was_on_the_wire",
            "client/test_shared_limits.py::test_maintenance_for_an_hour_is_probed_once_a_minute",
            "io/test_token_supply.py::test_refusal_by_the_account_stops_all_workers",
            "io/test_token_supply.py::test_maintenance_is_probed_once_a_minute_by_all_workers",
        ),
    ),
    Row(
        number=23,
        when="The same key on two machines in the same second.",
        where="database",
        then="The key has one row; the second caller joins the first one's job.",
        tests=(
            "client/test_given_up.py::test_customers_who_return_at_once_are_sent_once",
            "postgres/test_state_machine.py::test_two_workers_agree_with_the_service",
            "fleet/engines/test_uvicorn.py::test_orders_of_killed_workers_are_made_once",
        ),
    ),
    Row(
        number=24,
        when="The disk or the clock of a worker is wrong.",
        where="clock",
        then="Only its own entries carry its wall clock, for people and deadlines; leases and windows follow the time"
        " of the database. A journal in PostgreSQL needs no disk of the worker.",
        tests=(
            "core/test_shared_clock.py::test_worker_whose_own_clock_stood_still_agrees_with_the_others",
            "core/test_shared_clock.py::test_slow_drift_is_no_step",
            "io/test_sqlite.py::test_rows_are_ordered_by_insertion",
            "client/test_clock_steps.py::test_steps_of_the_wall_clock_move_no_deadline",
        ),
    ),
    Row(
        number=25,
        when="The application deletes rows, or restores a backup.",
        where="database",
        then="Workers that are alive write again what was acknowledged to them; what no worker remembers is row 13.",
        tests=(
            "postgres/test_restoration.py::test_lost_rows_are_restored_at_the_next_connection",
            "postgres/test_restoration.py::test_two_workers_restore_each_row_once",
            "client/test_journal_goes_back.py::test_jobs_in_progress_are_not_sent_again",
            "client/test_journal_goes_back.py::test_key_of_an_ended_job_is_not_paid_again",
        ),
    ),
    Row(
        number=26,
        when="The connections of the database run out.",
        where="database",
        then="A worker has one connection, never a pool. A worker that gets none raises `JournalError` at its start.",
        tests=(
            "postgres/test_session.py::test_worker_has_one_connection_and_says_if_there_is_none",
            "postgres/test_session.py::test_heartbeats_that_are_heard_change_nothing",
        ),
    ),
)
