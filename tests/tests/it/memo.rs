//! Memoised steps on real processes: a later run takes results of an earlier one where code, inputs and parameters are the same.

use std::collections::BTreeSet;
use std::path::Path;

use causey_tests::{History, Project, Stack};
use serde_json::json;

use crate::main_road::artifacts;
use crate::resume::{attempted, tasks};

/// Squares as many numbers as it is told. Its items hold for a version, the rest for the code.
const SQUARES: &str = r#"
from causey import FlowSpec, Parameter, memoize, step

class Squares(FlowSpec):
    count = Parameter("count", default=3, type=int)

    @memoize
    @step
    def start(self):
        self.items = list(range(self.count))
        self.next(self.square, foreach="items")

    @memoize(version="1", expires="7d")
    @step
    def square(self):
        self.squared = self.input ** 2
        self.next(self.total)

    @memoize
    @step
    def total(self, inputs):
        self.sum = sum(each.squared for each in inputs)
        self.next(self.end)

    @step
    def end(self):
        self.last = self.sum
"#;

#[tokio::test]
async fn memoised_steps_are_taken_until_code_or_parameters_change() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    let flow = project.flow("squares.py", SQUARES);
    let run = async |arguments: &[&str]| {
        let output = project.ok(&[&["run", &flow, "--json"], arguments].concat()).await;
        output.json_lines()[0]["run"].as_str().unwrap().to_owned()
    };
    let first = run(&[]).await;
    let second = run(&[]).await;
    let fresh = run(&["--no-memo"]).await;
    let larger = run(&["--count", "4"]).await;
    std::fs::write(&flow, SQUARES.replace("sum(each.squared for each in inputs)", "sum([each.squared for each in inputs])")).unwrap();
    let mended = run(&[]).await;

    let taken = tasks(&stack, &second).await;
    let owners: BTreeSet<&str> = taken.values().filter_map(|task| task["reused"].as_str()).collect();
    assert_eq!(owners, BTreeSet::from([first.as_str()]), "{taken:?}");
    let history = History::read(&stack.nats().await).await;
    assert_eq!(history.violations(), Vec::<String>::new());
    assert_eq!(history.store_violations(&stack.store()).unwrap(), Vec::<String>::new());
    let ran = |run: &str| attempted(&history, run).into_iter().collect::<Vec<_>>();
    let all = ["end/0", "square/0", "square/1", "square/2", "start/0", "total/0"];
    assert_eq!(ran(&first), all);
    assert_eq!(ran(&second), ["end/0"]);
    assert_eq!(ran(&fresh), all);
    assert_eq!(ran(&larger).len(), 7);
    assert_eq!(ran(&mended), ["end/0", "start/0", "total/0"], "the version of `square` stands for its code");
    for (run, sum) in [(&second, 5), (&larger, 14), (&mended, 5)] {
        assert_eq!(artifacts(&stack.store(), run, Path::new(&flow)).await["end/0"]["last"], json!(sum));
    }
    let shown = project.ok(&["show", &second]).await;
    assert_eq!(shown.stdout.matches("reused").count(), 3, "{shown:#?}");
    let why = project.ok(&["why", &format!("{second}/total/0")]).await;
    assert!(why.stdout.contains("it took the result that run"), "{why:#?}");
}
