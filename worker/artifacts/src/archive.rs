//! What a code package may hold: regular files and folders beneath the package, within limits. A package is a tar archive that somebody
//! sent; it is hostile until it has been looked through, which happens where it is taken in and again where it is unpacked.

use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

/// Most files and folders in a package.
pub const ENTRIES_MAX: usize = 20_000;

/// Most bytes of all files together: 1 GiB.
pub const BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// Longest path inside a package, in bytes, and most parts of it.
const PATH_BYTES_MAX: usize = 512;
const PATH_PARTS_MAX: usize = 32;

/// Why a package is refused.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("the code package is no tar archive, or is cut off")]
    Unreadable(#[source] io::Error),
    #[error("the code package holds {path:?}, which is {what}; only files and folders inside the package are unpacked")]
    Entry { path: String, what: &'static str },
    #[error("the code package is too large at {path:?}: at most {ENTRIES_MAX} entries and {BYTES_MAX} bytes are unpacked")]
    TooLarge { path: String },
}

/// What may be unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Folder,
    File { is_program: bool },
}

/// Gives each entry to `each`, in order, once it has been found harmless: its path beneath the package's folder, which stays inside when
/// it is joined, and its contents, which end at the size that was counted.
///
/// # Errors
/// [`ArchiveError`] at the first that is not, and what `each` says.
pub fn each_entry<E: From<ArchiveError>>(
    archive: impl Read,
    mut each: impl FnMut(&Path, Kind, &mut dyn Read) -> Result<(), E>,
) -> Result<(), E> {
    let mut archive = tar::Archive::new(archive);
    let mut bytes_left = BYTES_MAX;
    for (count, entry) in archive.entries().map_err(ArchiveError::Unreadable)?.enumerate() {
        let mut entry = entry.map_err(ArchiveError::Unreadable)?;
        let path = inner_path(&entry.path_bytes())?;
        let too_large = || ArchiveError::TooLarge { path: path.display().to_string() };
        if count >= ENTRIES_MAX {
            return Err(too_large().into());
        }
        let kind = entry.header().entry_type();
        if kind.is_dir() {
            each(&path, Kind::Folder, &mut entry)?;
        } else if kind.is_file() {
            bytes_left = bytes_left.checked_sub(entry.size()).ok_or_else(too_large)?;
            let is_program = entry.header().mode().is_ok_and(|mode| mode & 0o100 != 0);
            each(&path, Kind::File { is_program }, &mut entry)?;
        } else {
            let what = match kind {
                tar::EntryType::Symlink | tar::EntryType::Link => "a link",
                tar::EntryType::Char | tar::EntryType::Block => "a device",
                tar::EntryType::Fifo => "a named pipe",
                _ => "neither a file nor a folder",
            };
            return Err(ArchiveError::Entry { path: path.display().to_string(), what }.into());
        }
    }
    Ok(())
}

/// Looks through a package without unpacking it.
///
/// # Errors
/// [`ArchiveError`] naming the first entry that no worker would unpack.
pub fn check_archive(archive: impl Read) -> Result<(), ArchiveError> {
    let mut files = std::collections::BTreeSet::new();
    each_entry(archive, |path, kind, _| match kind {
        Kind::File { .. } if !files.insert(path.to_owned()) => {
            Err(ArchiveError::Entry { path: path.display().to_string(), what: "there twice" })
        }
        Kind::File { .. } | Kind::Folder => Ok(()),
    })
}

/// A path that stays where it is put.
fn inner_path(bytes: &[u8]) -> Result<PathBuf, ArchiveError> {
    let refused = |what| ArchiveError::Entry { path: String::from_utf8_lossy(bytes).chars().take(200).collect(), what };
    let text = std::str::from_utf8(bytes).map_err(|_| refused("not UTF-8"))?;
    if text.len() > PATH_BYTES_MAX || text.contains('\0') {
        return Err(refused("not a path of ordinary length"));
    }
    let mut inside = PathBuf::new();
    for part in Path::new(text).components() {
        match part {
            Component::Normal(part) => inside.push(part),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return Err(refused("outside of it")),
        }
    }
    if inside.components().count() > PATH_PARTS_MAX {
        return Err(refused("nested too deeply"));
    }
    Ok(inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &[u8], kind: tar::EntryType, size: u64) -> tar::Header {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o644);
        header.set_cksum();
        header
    }

    fn archive(entries: &[(&[u8], tar::EntryType, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(vec![]);
        for (name, kind, content) in entries {
            builder.append(&header(name, *kind, content.len() as u64), *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    /// Row 33 of the fault model.
    #[test]
    fn whatever_could_reach_outside_is_refused_by_name() {
        for (name, kind, what) in [
            (&b"../evil"[..], tar::EntryType::Regular, "outside of it"),
            (b"/etc/evil", tar::EntryType::Regular, "outside of it"),
            (b"a/../../evil", tar::EntryType::Regular, "outside of it"),
            (b"link", tar::EntryType::Symlink, "a link"),
            (b"link", tar::EntryType::Link, "a link"),
            (b"device", tar::EntryType::Char, "a device"),
            (b"fifo", tar::EntryType::Fifo, "a named pipe"),
        ] {
            let outcome = check_archive(&archive(&[(b"fine.py", tar::EntryType::Regular, b"1"), (name, kind, b"")])[..]);
            let Err(ArchiveError::Entry { path, what: found }) = outcome else { panic!("{name:?}: {outcome:?}") };
            assert_eq!((path.as_bytes(), found), (name, what));
        }
        let twice = archive(&[(b"a", tar::EntryType::Regular, b"1"), (b"a", tar::EntryType::Regular, b"2")]);
        assert!(matches!(check_archive(&twice[..]), Err(ArchiveError::Entry { what: "there twice", .. })));
    }

    /// Row 32 of the fault model.
    #[test]
    fn what_would_fill_the_disk_is_refused_before_it_is_unpacked() {
        let mut lying = header(b"huge", tar::EntryType::Regular, BYTES_MAX + 1).as_bytes().to_vec();
        lying.extend_from_slice(&[0; 1024]);
        assert!(matches!(check_archive(&lying[..]), Err(ArchiveError::TooLarge { path }) if path == "huge"));
        let many: Vec<(&[u8], tar::EntryType, &[u8])> = vec![(b"d/", tar::EntryType::Directory, b""); ENTRIES_MAX + 1];
        assert!(matches!(check_archive(&archive(&many)[..]), Err(ArchiveError::TooLarge { path }) if path == "d/" || path == "d"));
    }

    #[test]
    fn what_is_no_archive_is_told_apart() {
        let whole = archive(&[(b"a", tar::EntryType::Regular, &[7; 2_000])]);
        check_archive(&whole[..]).unwrap();
        for bytes in [&b"no tar"[..], &whole[..700]] {
            assert!(matches!(check_archive(bytes), Err(ArchiveError::Unreadable(_))));
        }
    }
}
