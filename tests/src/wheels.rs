//! Packages for Python that are made here: uv installs them from a folder, and no test needs a package index.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tools;

/// A folder of wheels, and the settings by which uv knows of nothing else.
#[derive(Clone, Debug)]
pub struct Wheels {
    folder: PathBuf,
}

impl Wheels {
    /// An empty folder beneath `base`.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn new(base: &Path) -> Self {
        let folder = base.join("wheels");
        std::fs::create_dir(&folder).expect("a folder for wheels");
        let settings = format!("no-index = true\nfind-links = [{:?}]\n", folder.display().to_string());
        std::fs::write(folder.join("uv.toml"), settings).expect("settings for uv");
        Self { folder }
    }

    /// The file for `UV_CONFIG_FILE`.
    #[must_use]
    pub fn settings(&self) -> PathBuf {
        self.folder.join("uv.toml")
    }

    /// Adds a package of one module.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn add(&self, name: &str, version: &str, code: &str, needs: &[&str]) {
        let (about, module) = (format!("{name}-{version}.dist-info"), format!("{name}.py"));
        let source = self.folder.join(format!("{name}-{version}"));
        let write = |path: &str, text: &str| std::fs::write(source.join(path), text).expect("a file of the wheel");
        std::fs::create_dir_all(source.join(&about)).expect("a folder for the wheel");
        let requires: String = needs.iter().map(|needed| format!("Requires-Dist: {needed}\n")).collect();
        write(&module, code);
        write(&format!("{about}/METADATA"), &format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}"));
        write(&format!("{about}/WHEEL"), "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n");
        write(&format!("{about}/RECORD"), &format!("{module},,\n{about}/METADATA,,\n{about}/WHEEL,,\n{about}/RECORD,,\n"));
        let wheel = self.folder.join(format!("{name}-{version}-py3-none-any.whl"));
        let mut command = Command::new(tools::python());
        command.args(["-m", "zipfile", "-c"]).arg(&wheel).args([&module, &about]).current_dir(&source);
        assert!(command.status().expect("Python can be run").success(), "{} cannot be made", wheel.display());
    }
}
