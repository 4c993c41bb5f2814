//! A disk that is soon full.

use std::path::Path;

/// A small file system in memory. Needs root and a kernel that lets it mount; `None` where it does not.
#[derive(Debug)]
pub struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    /// # Panics
    /// When there can be no folder at this place.
    #[must_use]
    pub fn mount(at: &'a Path, megabytes: u32) -> Option<Self> {
        std::fs::create_dir_all(at).expect("a folder");
        let options = format!("size={megabytes}m,mode=700");
        let status = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "causey-test"])
            .arg(at)
            .stderr(std::process::Stdio::null())
            .status();
        let mounted = status.is_ok_and(|status| status.success());
        if !mounted {
            eprintln!("skipped: this user or kernel cannot mount a tmpfs, so there is no small disk to fill");
        }
        mounted.then_some(Self(at))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0).status();
    }
}
