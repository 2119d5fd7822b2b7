//! What every journal must do, asked through the trait alone.

use std::{sync::Arc, time::Duration};

use orchestrator_contract::{Payload, RunId, RunOutcome};
use tokio::task::JoinSet;

use super::{
    AppendError, Cancel, Creation, Inbox, InboxRequest, Journal, JournalError, NewRecord,
    RecordBody, RunFilter, RunState, RunStatus, SqliteJournal, StepState, fixture::*,
};

fn fenced(run: RunId, seq: u64, epoch: u64, finished: bool) -> Result<u64, AppendError> {
    Err(AppendError::Fenced {
        run,
        seq,
        epoch,
        finished,
    })
}

fn cancel_seen() -> Vec<NewRecord> {
    let reason = "enough".to_owned();
    vec![RecordBody::CancelRequested { reason }.into()]
}

#[tokio::test]
async fn what_was_appended_is_read_back_also_by_the_next_engine() {
    let fixture = Fixture::new().await;
    let journal: &dyn Journal = &fixture.journal;
    let run = create(journal).await;
    let output = Payload::text("built");
    let records = vec![started("build", 1), completed("build", output.clone())];
    assert_eq!(journal.append(run, 1, 1, records).await, Ok(3));
    let end = vec![finished(RunOutcome::Success)];
    assert_eq!(journal.append(run, 3, 1, end).await, Ok(4));
    let history = journal.load(run).await.unwrap();
    fixture.journal.close().await;

    let reopened = fixture.another().await;
    assert_eq!(reopened.load(run).await.unwrap(), history);
    let kinds: Vec<_> = history.iter().map(|record| record.body.kind()).collect();
    assert_eq!(
        kinds,
        [
            "run_created",
            "step_started",
            "step_completed",
            "run_finished"
        ]
    );
    assert_eq!(history[0].payload, Some(new_run().input));
    let state = RunState::fold(run, history).unwrap();
    assert_eq!(state.status, RunStatus::Finished(RunOutcome::Success));
    assert!(matches!(
        state.step(&"build".into()),
        StepState::Completed { output: found, .. } if *found == output
    ));
    assert!(reopened.open_runs().await.unwrap().is_empty());
}

#[tokio::test]
async fn an_append_from_the_past_is_fenced_and_writes_nothing() {
    let fixture = Fixture::new().await;
    let journal: &dyn Journal = &fixture.journal;
    let run = create(journal).await;
    let step = || vec![failed("build")];
    assert_eq!(
        journal.append(run, 0, 1, step()).await,
        fenced(run, 1, 1, false)
    );
    assert_eq!(
        journal.append(run, 2, 1, step()).await,
        fenced(run, 1, 1, false)
    );
    assert_eq!(
        journal.append(run, 1, 2, step()).await,
        fenced(run, 1, 1, false)
    );
    let nobody = random_run();
    assert_eq!(
        journal.append(nobody, 1, 1, step()).await,
        fenced(nobody, 0, 0, false)
    );
    assert_eq!(journal.load(run).await.unwrap().len(), 1);

    let end = vec![finished(RunOutcome::Failed)];
    assert_eq!(journal.append(run, 1, 1, end).await, Ok(2));
    assert_eq!(
        journal.append(run, 2, 1, step()).await,
        fenced(run, 2, 1, true)
    );
    assert!(matches!(
        journal.load(nobody).await,
        Err(JournalError::NoSuchRun { .. })
    ));
}

#[tokio::test]
async fn records_handed_over_without_waiting_stay_in_order() {
    let fixture = Fixture::new().await;
    let journal: &dyn Journal = &fixture.journal;
    let run = create(journal).await;
    for seq in 1..50 {
        let attempt = u32::try_from(seq).unwrap();
        // The ticket is dropped: nobody waits for this one.
        drop(
            journal
                .submit(run, seq, 1, vec![started("build", attempt)])
                .await
                .unwrap(),
        );
    }
    let last = vec![completed("build", Payload::null())];
    assert_eq!(journal.append(run, 50, 1, last).await, Ok(51));
    RunState::fold(run, journal.load(run).await.unwrap()).unwrap();
}

#[tokio::test]
async fn after_a_refused_append_those_that_counted_on_it_are_refused_too() {
    let fixture = Fixture::new().await;
    let journal: &dyn Journal = &fixture.journal;
    let run = create(journal).await;
    let wrong = journal
        .submit(run, 7, 1, vec![started("a", 1)])
        .await
        .unwrap();
    let after = journal.submit(run, 8, 1, vec![failed("a")]).await.unwrap();
    assert_eq!(wrong.await, fenced(run, 1, 1, false));
    assert_eq!(after.await, fenced(run, 1, 1, false));
}

#[tokio::test]
async fn one_request_makes_one_run_a_tenant_however_often_it_is_made() {
    let fixture = Fixture::new().await;
    let request = |tenant: Option<&str>, key: &str| {
        let mut new = new_run();
        new.created.tenant = tenant.map(Into::into);
        new.created.idempotency_key = Some(key.into());
        new
    };
    let mut requests = JoinSet::new();
    for _ in 0..16 {
        let (journal, new) = (fixture.journal.clone(), request(Some("acme"), "order-7"));
        requests.spawn(async move { (new.run, journal.create(new).await.unwrap()) });
    }
    let answers = requests.join_all().await;
    let created: Vec<_> = answers
        .iter()
        .filter(|(_, answer)| matches!(answer, Creation::Created { .. }))
        .collect();
    assert_eq!(created.len(), 1);
    let first = created[0].0;
    let others = answers.iter().filter(|(run, _)| *run != first);
    assert!(
        others
            .map(|(_, answer)| *answer)
            .all(|answer| answer == Creation::Existing(first))
    );

    for new in [
        request(Some("acme"), "order-8"),
        request(Some("other"), "order-7"),
        request(None, "order-7"),
    ] {
        let answer = fixture.journal.create(new).await.unwrap();
        assert_eq!(answer, Creation::Created { epoch: 1, seq: 1 });
    }
}

#[tokio::test]
async fn a_run_needs_an_id_of_its_own_and_a_definition_that_is_kept() {
    let fixture = Fixture::new().await;
    let journal: &dyn Journal = &fixture.journal;
    let new = new_run();
    journal.create(new.clone()).await.unwrap();
    let again = journal.create(new.clone()).await;
    assert!(matches!(again, Err(JournalError::RunExists { run }) if run == new.run));
    let mut new = new_run();
    new.created.definition = super::Digest::of(b"never stored");
    let refused = journal.create(new.clone()).await;
    assert!(matches!(
        refused,
        Err(JournalError::NoSuchDefinition { .. })
    ));
    let body = bytes::Bytes::from_static(b"never stored");
    let name = journal.put_definition(body.clone()).await.unwrap();
    assert_eq!(journal.definition(name).await.unwrap(), Some(body));
    assert!(journal.create(new).await.is_ok());
}

#[tokio::test]
async fn a_fork_begins_with_the_results_it_inherits() {
    let fixture = Fixture::new().await;
    let journal: &dyn Journal = &fixture.journal;
    let mut new = new_run();
    new.created.forked_from = Some(super::Fork {
        run: create(journal).await,
        step: "test".into(),
    });
    new.inherited = vec![completed("build", Payload::null())];
    let run = new.run;
    let created = journal.create(new.clone()).await.unwrap();
    assert_eq!(created, Creation::Created { epoch: 1, seq: 2 });
    let state = RunState::fold(run, journal.load(run).await.unwrap()).unwrap();
    assert_eq!(
        RunState::of(new),
        Ok(state.clone()),
        "known without reading"
    );
    assert!(state.step(&"build".into()).is_final());
    assert_eq!(*state.step(&"test".into()), StepState::Pending);
}

#[tokio::test]
async fn what_is_too_large_or_makes_no_sense_is_refused_and_the_run_goes_on() {
    let fixture = Fixture::new().await;
    let journal: &dyn Journal = &fixture.journal;
    let run = create(journal).await;
    let too_large = vec![completed("build", payload((8 << 20) + 1, 0))];
    let refused = journal.append(run, 1, 1, too_large).await;
    assert!(matches!(
        refused,
        Err(AppendError::TooLarge {
            limit: 8_388_608,
            ..
        })
    ));
    // Each is small enough, together they are not.
    let together = (0..16).map(|n| {
        let (step, reason) = (format!("s{n}").as_str().into(), "x".repeat(300_000));
        RecordBody::StepSkipped { step, reason }.into()
    });
    let refused = journal.append(run, 1, 1, together.collect()).await;
    assert!(matches!(refused, Err(AppendError::TooLarge { .. })));

    let owner = journal.owner();
    let nonsense: [Vec<NewRecord>; 5] = [
        vec![],
        vec![RecordBody::OwnerChanged { owner }.into()],
        vec![RecordBody::RunCreated(Box::new(new_run().created)).into()],
        vec![finished(RunOutcome::Success), failed("build")],
        vec![NewRecord {
            payload: Some(Payload::null()),
            ..failed("build")
        }],
    ];
    for records in nonsense {
        let refused = journal.append(run, 1, 1, records).await;
        assert!(
            matches!(refused, Err(AppendError::Illegal { .. })),
            "{refused:?}"
        );
    }
    assert_eq!(
        journal.append(run, 1, 1, vec![failed("build")]).await,
        Ok(2)
    );
}

#[tokio::test]
async fn a_run_goes_to_another_engine_only_when_its_owner_is_gone() {
    let fixture = Fixture::new().await;
    let first = &fixture.journal;
    let second = fixture.another().await;
    let run = create(first).await;
    let refused = second.take_over(run).await;
    assert!(matches!(refused, Err(JournalError::Owned { owner, .. }) if owner == first.owner()));
    let open = &second.open_runs().await.unwrap()[0];
    assert!(open.owner_alive && !open.ours && open.owner == first.owner());
    let one = async |journal: &SqliteJournal| journal.open_run(run).await.unwrap();
    assert_eq!(one(&second).await.as_ref(), Some(open));
    assert!(one(first).await.unwrap().ours);

    first.close().await;
    assert!(!second.open_runs().await.unwrap()[0].owner_alive);
    assert!(!one(&second).await.unwrap().owner_alive);
    let taken = second.take_over(run).await.unwrap();
    assert_eq!((taken.epoch, taken.seq), (2, 2));
    let third = fixture.another().await;
    let late = third.take_over(run).await;
    assert!(matches!(late, Err(JournalError::Owned { owner, .. }) if owner == second.owner()));
    // The first owner was not dead but asleep.
    assert_eq!(
        third.append(run, 2, 1, vec![failed("build")]).await,
        fenced(run, 2, 2, false)
    );
    assert_eq!(second.append(run, 2, 2, vec![failed("build")]).await, Ok(3));
    let end = vec![finished(RunOutcome::Failed)];
    assert_eq!(second.append(run, 3, 2, end).await, Ok(4));
    assert_eq!(one(&second).await, None, "it has ended");
    assert!(matches!(
        second.take_over(run).await,
        Err(JournalError::Ended { .. })
    ));
    let state = RunState::fold(run, third.load(run).await.unwrap()).unwrap();
    assert_eq!(state.taken_over_by, Some(second.owner()));
}

#[tokio::test]
async fn changes_of_hands_without_progress_are_counted() {
    let fixture = Fixture::new().await;
    let journal: &dyn Journal = &fixture.journal;
    let run = create(journal).await;
    let mut seq = 1;
    for round in 1..=super::RESTARTS_MAX + 1 {
        let taken = journal.take_over(run).await.unwrap();
        assert_eq!(taken.restarts_without_progress, round);
        // A start is no progress: this is what a run that kills engines does.
        let start = vec![started("build", 1)];
        seq = journal
            .append(run, taken.seq, taken.epoch, start)
            .await
            .unwrap();
    }
    let listed = journal.open_runs().await.unwrap()[0].restarts_without_progress;
    let state = RunState::fold(run, journal.load(run).await.unwrap()).unwrap();
    assert_eq!((listed, state.restarts_without_progress), (6, 6));
    journal
        .append(run, seq, 7, vec![failed("build")])
        .await
        .unwrap();
    assert_eq!(
        journal.open_runs().await.unwrap()[0].restarts_without_progress,
        0
    );
    assert_eq!(
        journal
            .take_over(run)
            .await
            .unwrap()
            .restarts_without_progress,
        1
    );
}

#[tokio::test]
async fn another_process_can_ask_for_the_end_of_a_run() {
    let fixture = Fixture::new().await;
    let (engine, cli) = (&fixture.journal, fixture.another().await);
    let (run, other) = (create(engine).await, create(&cli).await);
    let poll = engine.settings().cancel_poll;
    let mut inbox = Inbox::new(Arc::new(engine.clone()), poll);
    cli.request_cancel(other, "not theirs".into())
        .await
        .unwrap();
    cli.request_cancel(run, "enough".into()).await.unwrap();
    cli.request_cancel(run, "said twice".into()).await.unwrap();
    let wait = Duration::from_secs(10);
    let items = tokio::time::timeout(wait, inbox.next())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(items.len(), 1);
    assert_eq!(items[0].run, run);
    let reason = "enough".to_owned();
    assert_eq!(items[0].request, InboxRequest::Cancel { reason });
    // Until the owner says that it has it, the request stays.
    assert_eq!(engine.inbox(0).await.unwrap(), items);
    engine.append(run, 1, 1, cancel_seen()).await.unwrap();
    assert_eq!(engine.inbox(0).await.unwrap(), []);
    engine
        .append(run, 2, 1, vec![finished(RunOutcome::Cancelled)])
        .await
        .unwrap();
    let late = cli.request_cancel(run, "late".into()).await;
    assert!(matches!(late, Err(JournalError::Ended { .. })));
    let nobody = cli.request_cancel(random_run(), "who".into()).await;
    assert!(matches!(nobody, Err(JournalError::NoSuchRun { .. })));
}

#[tokio::test]
async fn a_request_that_the_owner_did_not_live_to_see_reaches_the_next() {
    let fixture = Fixture::new().await;
    let run = create(&fixture.journal).await;
    let next = fixture.another().await;
    let asked = next.request_cancel(run, "enough".into()).await.unwrap();
    assert_eq!(asked, Cancel::Asked);
    fixture.journal.close().await;
    assert_eq!(next.inbox(0).await.unwrap(), []);
    assert!(next.open_runs().await.unwrap()[0].cancel_requested);
    let taken = next.take_over(run).await.unwrap();
    assert_eq!(taken.requests.len(), 1);
    assert_eq!(taken.requests[0].run, run);
}

#[tokio::test]
async fn a_run_without_a_live_owner_ends_when_somebody_wants_it_to() {
    let fixture = Fixture::new().await;
    let (run, asked_for) = (
        create(&fixture.journal).await,
        create(&fixture.journal).await,
    );
    let next = fixture.another().await;
    let first = next.request_cancel(asked_for, "first".into()).await;
    assert_eq!(first.unwrap(), Cancel::Asked);
    fixture.journal.close().await;
    let open = next.open_run(run).await.unwrap().unwrap();
    assert!(!open.cancel_requested && !open.owner_alive);
    for (run, reason) in [(run, "enough"), (asked_for, "first")] {
        let ended = next.request_cancel(run, "enough".into()).await.unwrap();
        assert_eq!(ended, Cancel::Ended);
        let state = RunState::fold(run, next.load(run).await.unwrap()).unwrap();
        assert_eq!(state.status, RunStatus::Finished(RunOutcome::Cancelled));
        assert_eq!(state.cancel_requested.as_deref(), Some(reason));
        assert_eq!((state.epoch, state.taken_over_by), (2, Some(next.owner())));
        let again = next.request_cancel(run, "enough".into()).await;
        assert!(matches!(again, Err(JournalError::Ended { .. })));
    }
    assert_eq!(next.stats().await.unwrap().inbox, 0);
}

#[tokio::test]
async fn runs_are_listed_newest_first_page_by_page() {
    let fixture = Fixture::new().await;
    let journal: &dyn Journal = &fixture.journal;
    let mut runs = Vec::new();
    for n in 0..5_u64 {
        let mut new = new_run();
        new.run = RunId::from_parts(1_000 + n, 0);
        new.created.pipeline = if n % 2 == 0 { "even" } else { "odd" }.into();
        runs.insert(0, new.run);
        journal.create(new).await.unwrap();
    }
    journal
        .append(runs[0], 1, 1, vec![finished(RunOutcome::Degraded)])
        .await
        .unwrap();
    let ids = async |filter: RunFilter| -> Vec<RunId> {
        let listed = journal.runs(filter).await.unwrap();
        listed.iter().map(|summary| summary.run).collect()
    };
    let all = RunFilter::default;
    assert_eq!(ids(all()).await, runs);
    let page = RunFilter {
        limit: 2,
        before: Some(runs[1]),
        ..all()
    };
    assert_eq!(ids(page).await, runs[2..4]);
    let odd = RunFilter {
        pipeline: Some("odd".into()),
        ..all()
    };
    assert_eq!(ids(odd).await, [runs[1], runs[3]]);
    let ended = RunStatus::Finished(RunOutcome::Degraded);
    let filter = RunFilter {
        status: Some(ended),
        pipeline: Some("even".into()),
        ..all()
    };
    assert_eq!(ids(filter).await, runs[..1]);
    let summary = journal.summary(runs[0]).await.unwrap();
    assert_eq!(
        (summary.status, summary.last_seq, summary.epoch),
        (ended, 2, 1)
    );
    assert_eq!(summary.finished_ms, Some(summary.updated_ms));
    assert_eq!(summary.tenant.as_deref(), Some("acme"));
    assert_eq!(summary.owner, journal.owner());
    let stats = journal.stats().await.unwrap();
    assert_eq!((stats.runs, stats.runs_open), (5, 4));
}

#[tokio::test]
async fn a_closed_journal_has_written_everything_and_takes_no_more() {
    let fixture = Fixture::new().await;
    let journal: &SqliteJournal = &fixture.journal;
    let run = create(journal).await;
    let mut tickets = Vec::new();
    for seq in 1..20 {
        let attempt = u32::try_from(seq).unwrap();
        tickets.push(
            journal
                .submit(run, seq, 1, vec![started("a", attempt)])
                .await
                .unwrap(),
        );
    }
    journal.close().await;
    journal.close().await;
    for (ticket, seq) in tickets.into_iter().zip(2..) {
        assert_eq!(ticket.await, Ok(seq));
    }
    let late = journal.append(run, 20, 1, vec![failed("a")]).await;
    assert!(matches!(
        late,
        Err(AppendError::Unavailable { poisoned: true, .. })
    ));
    assert_eq!(journal.load(run).await.unwrap().len(), 20);
}
