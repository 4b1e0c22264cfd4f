//! Reading whole files, and writing files so that a reader never finds half of one.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, Result};

const EISDIR: i32 = 21;

/// A file that appears under its name only when it is complete.
///
/// The bytes go to a hidden sibling; [`AtomicFile::commit`] flushes them to the disk and renames. Dropped
/// before that, the sibling is removed and whatever had the name is as it was. Where the name is a symbolic link's,
/// the link stays and its target is replaced. A device or a FIFO is written through: there is nothing to replace.
pub struct AtomicFile {
    path: PathBuf,
    /// The sibling, and what it becomes.
    hidden: Option<(PathBuf, PathBuf)>,
    file: BufWriter<File>,
}

impl AtomicFile {
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let inner = || match target(&path)? {
            None => Ok((File::options().write(true).open(&path)?, None)),
            Some(target) => {
                let (file, hidden) = locked_sibling(&target)?;
                Ok((file, Some((hidden, target))))
            }
        };
        let (file, hidden) = inner().map_err(|source| Error::io(&path, source))?;
        Ok(Self { path, hidden, file: BufWriter::with_capacity(1 << 16, file) })
    }

    pub fn commit(mut self) -> Result<()> {
        let finish = |this: &mut Self| {
            this.file.flush()?;
            let Some((hidden, target)) = &this.hidden else { return Ok(()) };
            this.file.get_ref().sync_all()?;
            fs::rename(hidden, target)
        };
        finish(&mut self).map_err(|source| Error::io(&self.path, source))
    }
}

/// The file to replace: `path`, or what it is a link to. None: a device or FIFO to write through.
fn target(path: &Path) -> io::Result<Option<PathBuf>> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Err(io::Error::from_raw_os_error(EISDIR)),
        Ok(metadata) if !metadata.is_file() => Ok(None),
        Ok(_) if fs::symlink_metadata(path)?.is_symlink() => fs::canonicalize(path).map(Some),
        Ok(_) => Ok(Some(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Perhaps a link to where there is nothing yet. A circle of links has another error.
            let mut target = path.to_owned();
            while let Ok(next) = fs::read_link(&target) {
                target = target.parent().unwrap_or(Path::new("")).join(next);
            }
            Ok(Some(target))
        }
        Err(error) => Err(error),
    }
}

/// A new file beside `target`; the lock on it says that its process is alive (`hybridlm.files.sweep` removes others).
fn locked_sibling(target: &Path) -> io::Result<(File, PathBuf)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let hidden = target.with_file_name(format!(".hybridlm-{}-r{number}.part", std::process::id()));
        match File::options().write(true).create_new(true).open(&hidden) {
            Ok(file) if lock(&file) && hidden.exists() => return Ok((file, hidden)),
            // Swept between the two calls, or left by a killed process that had the same number.
            Ok(_) => (),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => (),
            Err(error) => return Err(error),
        }
    }
}

/// Whether nobody else holds the lock. A file system without locks says that nobody does.
fn lock(file: &File) -> bool {
    // On Windows a locked file can't be read, and nobody sweeps there.
    cfg!(windows) || !matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock))
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if let Some((hidden, _)) = &self.hidden {
            // After a commit nothing has this name any more; and nothing can be done about a failure.
            let _ = fs::remove_file(hidden);
        }
    }
}

impl Write for AtomicFile {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.file.write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

pub fn write_atomically(path: impl AsRef<Path>, data: &[u8]) -> Result<()> {
    let mut file = AtomicFile::create(&path)?;
    file.write_all(data).map_err(|source| Error::io(&path, source))?;
    file.commit()
}

pub fn read(path: impl AsRef<Path>) -> Result<Vec<u8>> {
    fs::read(&path).map_err(|source| Error::io(&path, source))
}

/// Opens a regular file for reading; also returns its length.
///
/// Others are refused: what is opened here is opened more than once, and a FIFO or a device would block or give
/// something else the second time.
pub fn open(path: &Path) -> Result<(File, u64)> {
    let inner = || {
        // Before it is opened, which would wait for a FIFO's writer.
        let metadata = fs::metadata(path)?;
        if metadata.is_dir() {
            return Err(io::Error::from_raw_os_error(EISDIR)); // which opening a folder doesn't raise by itself
        }
        if !metadata.is_file() {
            return Ok(None);
        }
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Ok(Some((file, length)))
    };
    match inner() {
        Ok(Some(opened)) => Ok(opened),
        Ok(None) => Err(Error::format(
            path.display(),
            "not a regular file; it is read more than once, so write it to a file first",
        )),
        Err(source) => Err(Error::io(path, source)),
    }
}
