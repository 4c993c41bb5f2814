//! What the kernel says of processes: whose children they are, which group and session they are in, how much memory they hold. It reads
//! `/proc` and changes nothing.

use std::collections::HashMap;
use std::fs;

/// The variable that every host and its descendants have: the path of the flow file, beneath the worker's folder.
pub(crate) const MARK: &str = "CAUSEY_FLOW_FILE";

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) pid: i32,
    state: char,
    pub(crate) parent: i32,
    pub(crate) group: i32,
    pub(crate) session: i32,
    /// In ticks since the boot.
    start: String,
    /// Memory it holds, in pages; shared ones count in each process.
    pages: u64,
}

impl Member {
    /// Neither a zombie nor dead.
    pub(crate) fn is_alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X' | 'x')
    }

    pub(crate) fn is_zombie(&self) -> bool {
        self.state == 'Z'
    }

    /// What no two processes with the same number share: boot and time of start.
    pub(crate) fn identity(&self) -> String {
        format!("{} {}", boot_id(), self.start)
    }

    pub(crate) fn resident_bytes(&self) -> u64 {
        self.pages.saturating_mul(rustix::param::page_size() as u64)
    }
}

pub(crate) fn member(pid: i32) -> Option<Member> {
    parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse(pid: i32, text: &str) -> Option<Member> {
    // The second field is the program's name and may hold anything; counted from one, the state is the third field.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let number = |place: usize| fields.get(place - 3)?.parse().ok();
    Some(Member {
        pid,
        state: fields.first()?.chars().next()?,
        parent: number(4)?,
        group: number(5)?,
        session: number(6)?,
        start: (*fields.get(22 - 3)?).to_owned(),
        pages: fields.get(24 - 3)?.parse().ok()?,
    })
}

/// All processes there are.
pub(crate) fn everybody() -> Vec<Member> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| member(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// A process, its children, theirs, and so on.
pub(crate) fn descent(root: i32, everybody: &[Member]) -> Vec<&Member> {
    let mut children: HashMap<i32, Vec<&Member>> = HashMap::new();
    for member in everybody {
        children.entry(member.parent).or_default().push(member);
    }
    let mut found: Vec<&Member> = everybody.iter().filter(|member| member.pid == root).collect();
    let mut next = 0;
    while let Some(member) = found.get(next) {
        found.extend(children.remove(&member.pid).unwrap_or_default());
        next += 1;
    }
    found
}

/// The value of a variable in the environment a process was started with. `None` also when nobody may look.
pub(crate) fn variable(pid: i32, name: &str) -> Option<Vec<u8>> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let mut pairs = environment.split(|byte| *byte == 0);
    pairs.find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")).map(<[u8]>::to_vec)
}

/// Memory of a process of which shared pages count in parts, in bytes. Costs the kernel a walk over all of it.
pub(crate) fn proportional_bytes(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

pub(crate) fn boot_id() -> &'static str {
    static BOOT_ID: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    BOOT_ID.get_or_init(|| {
        let read = fs::read_to_string("/proc/sys/kernel/random/boot_id");
        read.map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let text = "7 (a) b) S 1 8 9 0 -1 4194560 100 0 0 0 150 50 30 20 20 0 1 0 5 1000 10 18446744073709551615";
        let member = parse(7, text).unwrap();
        assert_eq!((member.parent, member.group, member.session), (1, 8, 9));
        assert_eq!((member.start.as_str(), member.pages, member.is_alive()), ("5", 10, true));
        assert_eq!(parse(7, "7 (short) S 1"), None);
    }

    #[test]
    fn a_process_is_found_with_its_descendants() {
        let member = |pid, parent| Member { pid, state: 'S', parent, group: 1, session: 1, start: "1".into(), pages: 1 };
        let all = [member(1, 0), member(4, 3), member(2, 1), member(3, 2), member(9, 1)];
        assert_eq!(descent(2, &all).iter().map(|member| member.pid).collect::<Vec<_>>(), [2, 3, 4]);
        assert!(descent(7, &all).is_empty());
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(descent(own, &everybody())[0].resident_bytes() > 100_000);
        assert!(proportional_bytes(own).is_none_or(|bytes| bytes > 100_000));
        assert_eq!(variable(own, "CAUSEY_NO_SUCH_VARIABLE"), None);
    }
}
