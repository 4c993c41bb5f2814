//! `causey check`: everything that can be known to be wrong with a flow file without running it.

use serde_json::json;

use crate::arguments::Check;
use crate::command::show::described;
use crate::describe::{DescribeError, FlowProblem};
use crate::exit::Exit;
use crate::fault::Fault;
use crate::package::package;
use crate::screen::live::{print_json, print_text};
use crate::screen::paint::Paint;

/// Runs the command: status 0 and `OK`, or status 1 and the problems.
///
/// # Errors
/// When the flow cannot be examined at all.
pub(crate) async fn run(arguments: &Check) -> Result<Exit, Fault> {
    let problems = match described(&arguments.flow, &arguments.local).await? {
        Ok(described) => match package(described) {
            Ok(_) => Vec::new(),
            Err(fault) => vec![from_fault(fault)],
        },
        Err(DescribeError::Invalid(problems)) => problems,
        Err(DescribeError::Failed(fault)) => return Err(fault),
    };
    if arguments.json {
        print_json(&json!({"ok": problems.is_empty(), "problems": problems}));
    } else if problems.is_empty() {
        print_text("OK\n");
    } else {
        print_text(&problems.iter().map(|problem| text(problem, Paint::stdout())).collect::<String>());
    }
    Ok(if problems.is_empty() { Exit::Ok } else { Exit::Failed })
}

fn text(problem: &FlowProblem, paint: Paint) -> String {
    let code = problem.code.as_deref().map(|code| format!("  {}", paint.dim(code))).unwrap_or_default();
    let line = [problem.place(), problem.message.clone()].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("  ");
    let hint = problem.hint.as_ref().map(|hint| format!("  {}  {hint}\n", paint.bold("help"))).unwrap_or_default();
    format!("{} {line}{code}\n{hint}", paint.red("✘"))
}

/// What the SDK let pass but the server would refuse; the message names the place.
fn from_fault(fault: Fault) -> FlowProblem {
    let message = std::iter::once(fault.message).chain(fault.details).collect::<Vec<_>>().join("; ");
    FlowProblem { code: Some(fault.code.to_string()), message, file: None, line: None, step: None, hint: fault.hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_shown_with_its_place_and_hint() {
        let problem = FlowProblem {
            code: Some("CSY-1101".into()),
            message: "step `start` goes on to `wrok`, which is not a step".into(),
            file: Some("hello.py".into()),
            line: Some(7),
            step: Some("start".into()),
            hint: Some("did you mean work?".into()),
        };
        let expected = "✘ hello.py:7  step `start` goes on to `wrok`, which is not a step  CSY-1101\n  help  did you mean work?\n";
        assert_eq!(text(&problem, Paint::plain()), expected);
    }
}
