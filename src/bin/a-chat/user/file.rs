//! A user file is never changed in place: a server that reads it meanwhile must see all of the old
//! one or all of the new one. Runs on the main thread.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use a_chat::UserTable;
use rustix::fs::{FlockOperation, flock};

/// Replaces a user file by what `change` makes of it. `create` says whether it may be missing.
pub(super) fn replace(
    path: &Path,
    create: bool,
    change: impl FnOnce(&UserTable, &str) -> Result<String, String>,
) -> Result<(), String> {
    let cannot = |problem: String| format!("cannot change {}: {problem}", path.display());
    let of_system = |error: io::Error| cannot(error.to_string());
    let target = resolve(path, create).map_err(of_system)?;
    let folder_path = target.parent().unwrap_or(Path::new("/"));
    // Held to the end: another change waits, and then sees this one.
    let folder = File::open(folder_path).map_err(of_system)?;
    flock(&folder, FlockOperation::LockExclusive).map_err(|error| of_system(error.into()))?;
    let old = match File::open(&target) {
        Ok(file) => Some(file.metadata().map_err(of_system)?),
        Err(error) if create && error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(of_system(error)),
    };
    let text = match &old {
        Some(old) if !old.is_file() => return Err(cannot("it is not a regular file".to_owned())),
        Some(_) => fs::read_to_string(&target).map_err(of_system)?,
        None => String::new(),
    };
    let table = UserTable::parse(text.as_bytes()).map_err(|error| cannot(error.to_string()))?;
    let new = change(&table, &text).map_err(cannot)?;
    // Whatever went wrong, a server must not get to see it.
    UserTable::parse(new.as_bytes()).map_err(|error| cannot(error.to_string()))?;
    let temporary = temporary(&target);
    let result = write(&temporary, &new, old.as_ref())
        .and_then(|()| fs::rename(&temporary, &target))
        .and_then(|()| folder.sync_all());
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result.map_err(of_system)
}

/// Where the file itself is, behind symbolic links.
fn resolve(path: &Path, create: bool) -> io::Result<PathBuf> {
    match fs::canonicalize(path) {
        Err(error) if create && error.kind() == io::ErrorKind::NotFound => {
            if fs::symlink_metadata(path).is_ok() {
                // A link that leads nowhere: the file it stands for is not to be guessed.
                return Err(error);
            }
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            let folder = fs::canonicalize(folder.unwrap_or(Path::new(".")))?;
            Ok(folder.join(path.file_name().ok_or(error)?))
        }
        resolved => resolved,
    }
}

fn temporary(target: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(".new");
    target.with_file_name(name)
}

/// Writes a new file with the owner and the mode of the old one.
fn write(path: &Path, text: &str, old: Option<&fs::Metadata>) -> io::Result<()> {
    // Under the lock nobody else writes one, so this is left from a change that was killed.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    if let Some(old) = old {
        let new = file.metadata()?;
        if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
            fchown(&file, Some(old.uid()), Some(old.gid()))?;
        }
        file.set_permissions(PermissionsExt::from_mode(old.mode() & 0o7777))?;
    }
    file.sync_all()
}
