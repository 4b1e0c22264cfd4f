//! Files: bytes in whole, results written so that a reader never meets half of one, zstd frames.

use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::parallel::Control;
use crate::{Error, Result};

/// A file that appears under its name only when it is complete.
///
/// The bytes go to a temporary sibling; [`AtomicFile::commit`] flushes them to the disk and renames.
/// Dropped before that, the sibling is removed and whatever had the name is as it was.
pub struct AtomicFile {
    path: PathBuf,
    file: BufWriter<NamedTempFile>,
}

impl AtomicFile {
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let mut builder = tempfile::Builder::new();
        builder.prefix(".hybridlm-").suffix(".part");
        #[cfg(unix)]
        {
            // Temporary files are private by default; a result gets the mode of an ordinary new file.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(Permissions::from_mode(0o666));
        }
        let file = builder.tempfile_in(folder).map_err(|source| Error::io(&path, unwrapped(source)))?;
        Ok(Self { path, file: BufWriter::with_capacity(1 << 16, file) })
    }

    pub fn commit(self) -> Result<()> {
        let Self { path, file } = self;
        let inner = || -> io::Result<()> {
            let file = file.into_inner().map_err(|error| error.into_error())?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|error| error.error)?;
            Ok(())
        };
        inner().map_err(|source| Error::io(&path, source))
    }
}

/// The system's own error inside tempfile's, which adds the temporary path to it.
fn unwrapped(error: io::Error) -> io::Error {
    let inner = error.get_ref().and_then(|wrapper| wrapper.source()?.downcast_ref::<io::Error>());
    match inner.and_then(io::Error::raw_os_error) {
        Some(code) => io::Error::from_raw_os_error(code),
        None => error,
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

/// Opens a file for reading, and its length.
pub fn open(path: &Path) -> Result<(File, u64)> {
    let inner = || {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(io::Error::from_raw_os_error(21)); // EISDIR, which opening alone doesn't give
        }
        Ok((file, metadata.len()))
    };
    inner().map_err(|source| Error::io(path, source))
}

/// zstd's levels as this crate accepts them.
pub const LEVELS: std::ops::RangeInclusive<i32> = 1..=22;

/// Bytes handed to zstd at a time: at level 22 some hundredths of a second, so a request to stop is soon
/// honoured. The frame's bytes depend on this number.
const COMPRESS_PIECE: usize = 1 << 17;

/// One zstd frame with content checksum and content size.
pub fn compress(data: &[u8], level: i32, control: &Control) -> Result<Vec<u8>> {
    if !LEVELS.contains(&level) {
        return Err(Error::input(format!("zstd levels run from 1 to 22, not {level}")));
    }
    let failed = |source| Error::io("zstd", source);
    let mut encoder = zstd::Encoder::new(Vec::new(), level).map_err(failed)?;
    encoder.set_pledged_src_size(Some(data.len() as u64)).map_err(failed)?;
    encoder.include_contentsize(true).map_err(failed)?;
    encoder.include_checksum(true).map_err(failed)?;
    for piece in data.chunks(COMPRESS_PIECE) {
        encoder.write_all(piece).map_err(failed)?;
        control.advance(piece.len() as u64)?;
    }
    encoder.finish().map_err(failed)
}

/// The content of one zstd frame of at most `max_bytes`, with nothing after it.
///
/// Memory grows with what is really there, never with what the frame's header claims. `what` names the
/// data in errors.
pub fn decompress(data: &[u8], max_bytes: usize, what: &str) -> Result<Vec<u8>> {
    let invalid = |detail: String| Error::format(what, detail);
    let declared = zstd::zstd_safe::get_frame_content_size(data)
        .map_err(|_| invalid("no zstd frame where one should begin".into()))?;
    if declared.is_some_and(|bytes| bytes > max_bytes as u64) {
        let bytes = declared.unwrap_or_default();
        return Err(invalid(format!(
            "the zstd frame declares {bytes} bytes, more than the {max_bytes} allowed"
        )));
    }
    let mut rest = data;
    let mut content = Vec::new();
    {
        let mut decoder = zstd::Decoder::with_buffer(&mut rest)
            .map_err(|error| invalid(format!("zstd: {error}")))?
            .single_frame();
        // One byte more than allowed tells too much from exactly enough.
        (&mut decoder)
            .take(max_bytes as u64 + 1)
            .read_to_end(&mut content)
            .map_err(|error| invalid(format!("the zstd frame is damaged: {error}")))?;
    }
    if content.len() > max_bytes {
        return Err(invalid(format!("the zstd frame holds more than the {max_bytes} bytes allowed")));
    }
    if !rest.is_empty() {
        return Err(invalid(format!("{} bytes follow the zstd frame", rest.len())));
    }
    Ok(content)
}
