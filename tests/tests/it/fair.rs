//! Who goes first on real processes: a late run of high priority, a run that wants few tasks at a time, one user beside another.

use causey_protocol::record::Record;
use causey_tests::history::accepted;
use causey_tests::{History, Project, Stack, until};
use serde_json::json;

const SLOW: &str = r#"
import time

from causey import FlowSpec, Parameter, priority, step


@priority(level=-50)
class Slow(FlowSpec):
    items = Parameter("items", default=200)

    @step
    def start(self):
        self.numbers = list(range(self.items))
        self.next(self.work, foreach="numbers")

    @step
    def work(self):
        time.sleep(0.05)
        self.next(self.gather)

    @step
    def gather(self, inputs):
        self.next(self.end)

    @step
    def end(self):
        pass
"#;

const QUICK: &str = r"
from causey import FlowSpec, step


class Quick(FlowSpec):
    @step
    def start(self):
        self.next(self.end)

    @step
    def end(self):
        pass
";

/// Most attempts that were open at once, by the log.
fn most_open(history: &History) -> usize {
    let (mut open, mut most) = (0_usize, 0);
    for (_, record) in history.records() {
        match record {
            Record::AttemptsOpened { tasks, .. } => open += tasks.len() as usize,
            Record::AttemptSucceeded { .. } | Record::AttemptFailed { .. } => open -= 1,
            Record::AttemptsSucceeded { items, .. } => open -= items.len(),
            _ => {}
        }
        most = most.max(open);
    }
    most
}

#[tokio::test]
async fn a_late_run_of_high_priority_ends_long_before_a_wide_one_of_low_priority() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    project.ok(&["deploy", &project.flow("slow.py", SLOW)]).await;
    project.ok(&["deploy", &project.flow("quick.py", QUICK), "--priority", "100"]).await;
    let wide =
        stack.api.post("/v1/runs", &json!({"request_id": "wide", "flow": "Slow", "parameters": {"items": 400}, "user": "ann"})).await;
    let wide = wide.body["name"].as_str().unwrap().to_owned();
    until("the wide run has filled the pool", 60, async || {
        let shown = stack.api.get(&format!("/v1/runs/{wide}")).await;
        shown["tasks"]["succeeded"].as_u64().filter(|done| *done > 5)
    })
    .await;
    let quick = stack.api.post("/v1/runs", &json!({"request_id": "quick", "flow": "Quick", "user": "ann"})).await;
    let quick = quick.body["name"].as_str().unwrap().to_owned();
    let ended = stack.api.ended(&quick, 60).await;
    assert_eq!((ended["state"].as_str(), ended["priority"].as_i64()), (Some("succeeded"), Some(100)), "{ended}");
    let shown = stack.api.get(&format!("/v1/runs/{wide}")).await;
    assert_eq!((shown["state"].as_str(), shown["priority"].as_i64()), (Some("running"), Some(-50)), "{shown}");
    assert!(shown["tasks"]["succeeded"].as_u64().unwrap() < 300, "the wide run was not waited for: {shown}");
    let listed = project.ok(&["runs"]).await;
    assert!(listed.stdout.contains("PRIORITY") && listed.stdout.contains("-50"), "{listed:#?}");
    project.ok(&["cancel", &wide]).await;
    let history = History::read(&stack.nats().await).await;
    assert_eq!(history.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_run_never_has_more_tasks_at_once_than_it_wants() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    let output = project.ok(&["run", &project.flow("slow.py", SLOW), "--max-workers", "2", "--items", "12"]).await;
    assert!(output.stderr.contains("succeeded") || output.stdout.contains("succeeded"), "{output:#?}");
    let history = History::read(&stack.nats().await).await;
    assert_eq!(history.violations(), Vec::<String>::new());
    assert_eq!(most_open(&history), 2);
    project.expect(2, &["run", &project.flow("slow.py", SLOW), "--max-workers", "0"]).await.says(&["--max-workers"]);
    project.expect(2, &["run", &project.flow("slow.py", SLOW), "--priority", "101"]).await.says(&["--priority"]);
}

/// A hundred wide runs of one user, and one run of another that comes later.
#[tokio::test]
async fn row_39_a_user_is_not_kept_waiting_by_a_hundred_runs_of_another() {
    const FLOOD: usize = 100;
    let project = Project::new();
    let stack = Stack::start(&project).await;
    project.ok(&["deploy", &project.flow("slow.py", SLOW.replace("priority(level=-50)", "priority(level=0)").as_str())]).await;
    let submit = async |request: String, user: &str| {
        let body = json!({"request_id": request, "flow": "Slow", "parameters": {"items": 20}, "user": user});
        stack.api.post("/v1/runs", &body).await.body["run"].as_str().unwrap().to_owned()
    };
    for number in 0..FLOOD {
        submit(format!("flood-{number}"), "flood").await;
    }
    let own = submit("own".into(), "ann").await;
    let ended = stack.api.ended(&own, 120).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    let history = History::read(&stack.nats().await).await;
    assert_eq!(history.violations(), Vec::<String>::new());
    let place = |wanted: &dyn Fn(&Record) -> bool| history.records().position(|(_, record)| wanted(record)).unwrap();
    let begin = place(&|record| matches!(record, Record::RunStarted(start) if start.run.to_string() == own));
    let end = place(&|record| matches!(record, Record::RunFinished { run, .. } if run.to_string() == own));
    let between = history.records().skip(begin).take(end - begin);
    let others = between.flat_map(|(_, record)| accepted(record)).filter(|result| result.0.to_string() != own).count();
    // Each of its four steps waits for what is open when it comes, which is a window of the pool, and then gets every other place.
    let (most, all) = (4 * 64 + 2 * 23, FLOOD * 23);
    assert!(others <= most, "{others} of {all} tasks of the other went first, {most} may");
}

/// What a full queue refuses stays open and is offered until there is room.
#[tokio::test]
async fn a_full_task_queue_loses_no_dispatch() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    project.ok(&["deploy", &project.flow("slow.py", SLOW)]).await;
    let context = async_nats::jetstream::new(stack.nats().await);
    let mut config = context.get_stream("CAUSEY_TASK").await.unwrap().cached_info().config.clone();
    config.max_messages = 2;
    context.update_stream(&config).await.unwrap();
    let body = json!({"request_id": "full", "flow": "Slow", "parameters": {"items": 5}, "user": "ann"});
    let run = stack.api.post("/v1/runs", &body).await.body["name"].as_str().unwrap().to_owned();
    let ended = stack.api.ended(&run, 60).await;
    assert_eq!((ended["state"].as_str(), ended["tasks"]["failed"].as_u64()), (Some("succeeded"), Some(0)), "{ended}");
    let metrics = stack.api.bare(reqwest::Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
    let refused = metrics.lines().find(|line| line.starts_with("causey_dispatches_refused_total")).map(str::to_owned);
    assert!(refused.as_deref().is_some_and(|line| !line.ends_with(" 0")), "{refused:?}");
    let history = History::read(&stack.nats().await).await;
    assert_eq!(history.violations(), Vec::<String>::new());
}
