//! Reading whole files, and writing files so that a reader never finds half of one.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, Result};

/// A file that appears under its name only when it is complete.
///
/// The bytes go to a hidden sibling; [`AtomicFile::commit`] flushes them to the disk and renames. Dropped
/// before that, the sibling is removed and whatever had the name is as it was.
pub struct AtomicFile {
    path: PathBuf,
    hidden: PathBuf,
    file: BufWriter<File>,
}

impl AtomicFile {
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let path = path.as_ref().to_owned();
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let hidden = path.with_file_name(format!(".hybridlm-{}-{number}.part", std::process::id()));
            match File::options().write(true).create_new(true).open(&hidden) {
                Ok(file) => return Ok(Self { path, hidden, file: BufWriter::with_capacity(1 << 16, file) }),
                // Left by a process of the same number that was killed.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => (),
                Err(source) => return Err(Error::io(path, source)),
            }
        }
    }

    pub fn commit(mut self) -> Result<()> {
        let finish = |this: &mut Self| {
            this.file.flush()?;
            this.file.get_ref().sync_all()?;
            fs::rename(&this.hidden, &this.path)
        };
        finish(&mut self).map_err(|source| Error::io(&self.path, source))
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        // After a commit nothing has this name any more; and nothing can be done about a failure.
        let _ = fs::remove_file(&self.hidden);
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

/// Opens a file for reading; also returns its length.
pub fn open(path: &Path) -> Result<(File, u64)> {
    let inner = || {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(io::Error::from_raw_os_error(21)); // EISDIR, which opening a folder doesn't raise by itself
        }
        Ok((file, metadata.len()))
    };
    inner().map_err(|source| Error::io(path, source))
}
