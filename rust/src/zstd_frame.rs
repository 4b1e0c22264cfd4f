//! Writing and reading zstd frames (RFC 8878) that carry a content checksum and a content size.

use std::io::{self, Read, Write};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use zstd::zstd_safe::CParameter;

use crate::parallel::Control;
use crate::{Error, Result};

/// The zstd levels that this crate accepts.
pub const LEVELS: std::ops::RangeInclusive<i32> = 1..=22;

/// Bytes handed to zstd at a time. Level 22 takes some hundredths of a second for them, so a request to stop is
/// soon honoured. The frame's bytes depend on this number.
const COMPRESS_PIECE: usize = 1 << 17;

fn check_level(level: i32) -> Result<()> {
    if LEVELS.contains(&level) {
        return Ok(());
    }
    Err(Error::input(format!("zstd levels run from 1 to 22, not {level}")))
}

fn encoder(level: i32, bytes: u64) -> io::Result<zstd::Encoder<'static, Vec<u8>>> {
    let mut encoder = zstd::Encoder::new(Vec::new(), level)?;
    encoder.set_pledged_src_size(Some(bytes))?;
    encoder.include_contentsize(true)?;
    encoder.include_checksum(true)?;
    Ok(encoder)
}

/// One zstd frame with content checksum and content size.
pub fn compress(data: &[u8], level: i32, control: &Control) -> Result<Vec<u8>> {
    check_level(level)?;
    let failed = |source| Error::io("zstd", source);
    let mut encoder = encoder(level, data.len() as u64).map_err(failed)?;
    for piece in data.chunks(COMPRESS_PIECE) {
        encoder.write_all(piece).map_err(failed)?;
        control.advance(piece.len() as u64)?;
    }
    encoder.finish().map_err(failed)
}

/// How often a call checks whether to stop while zstd's own threads work.
const POLL: Duration = Duration::from_millis(20);

/// Compresses as [`compress`] does, on several threads of zstd's own.
///
/// After the first megabytes a job sees less of what came before it, which costs 0.7% more bytes at the strongest
/// level. The bytes are the same for any number of threads.
pub fn compress_on_threads(data: Vec<u8>, level: i32, threads: usize, control: &Control) -> Result<Vec<u8>> {
    // The default tables make six jobs, which two or three threads can share evenly.
    const JOB: u32 = 1_600_000;
    // 1/32 of the window: no more work than a single stream makes, and 0.1% more bytes than 1/8 would give.
    const OVERLAP_LOG: u32 = 4;
    check_level(level)?;
    let (done, result) = mpsc::channel();
    let length = data.len() as u64;
    let work = move || -> io::Result<Vec<u8>> {
        let mut encoder = encoder(level, length)?;
        encoder.multithread(threads.clamp(1, 64) as u32)?;
        encoder.set_parameter(CParameter::JobSize(JOB))?;
        encoder.set_parameter(CParameter::OverlapSizeLog(OVERLAP_LOG))?;
        encoder.write_all(&data)?;
        encoder.finish()
    };
    // Not a scoped thread: zstd can't be stopped in the middle, so an interrupted call lets the thread, which owns
    // its data, run to its end.
    let spawned = std::thread::Builder::new().spawn(move || {
        let _ = done.send(work());
    });
    spawned.map_err(|source| Error::io("zstd", source))?;
    loop {
        match result.recv_timeout(POLL) {
            Ok(frame) => {
                control.advance(length)?;
                return frame.map_err(|source| Error::io("zstd", source));
            }
            Err(RecvTimeoutError::Timeout) => control.check()?,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::io("zstd", io::Error::other("a thread ended before its time")));
            }
        }
    }
}

/// What a file may unpack to where nothing else bounds it: the default, and what lifts it.
pub const DEFAULT_LIMIT: usize = 1 << 28;
pub const LIMIT_VARIABLE: &str = "HYBRIDLM_MAX_UNPACKED_BYTES";

/// [`DEFAULT_LIMIT`], or what the environment says. A few kilobytes can unpack to anything.
pub fn limit() -> Result<usize> {
    match std::env::var(LIMIT_VARIABLE) {
        Err(_) => Ok(DEFAULT_LIMIT),
        Ok(value) => value
            .parse()
            .map_err(|_| Error::input(format!("{LIMIT_VARIABLE}={value:?} is not a number of bytes"))),
    }
}

/// Begins to unpack a frame that declares at most `max_bytes`. Whoever reads on has to see to it that no more come.
pub fn begin<'a>(data: &'a [u8], max_bytes: usize, what: &str) -> Result<zstd::Decoder<'static, &'a [u8]>> {
    let invalid = |detail: String| Error::format(what, detail);
    let declared = zstd::zstd_safe::get_frame_content_size(data)
        .map_err(|_| invalid("no zstd frame where one should begin".into()))?;
    if declared.is_some_and(|bytes| bytes > max_bytes as u64) {
        let bytes = declared.unwrap_or_default();
        return Err(invalid(format!(
            "the zstd frame declares {bytes} bytes, more than the {max_bytes} allowed"
        )));
    }
    let decoder = zstd::Decoder::with_buffer(data).map_err(|error| invalid(format!("zstd: {error}")))?;
    Ok(decoder.single_frame())
}

/// Refuses bytes after a frame whose content has been read to its end.
pub fn end(decoder: zstd::Decoder<'static, &[u8]>, what: &str) -> Result<()> {
    match decoder.finish() {
        [] => Ok(()),
        rest => Err(Error::format(what, format!("{} bytes follow the zstd frame", rest.len()))),
    }
}

/// The content of one zstd frame of at most `max_bytes`, with nothing after it.
///
/// Memory grows with what is really there, never with what the frame's header claims. `what` names the
/// data in errors.
pub fn decompress(data: &[u8], max_bytes: usize, what: &str) -> Result<Vec<u8>> {
    let invalid = |detail: String| Error::format(what, detail);
    let mut decoder = begin(data, max_bytes, what)?;
    let mut content = Vec::new();
    // Reading one byte more than allowed distinguishes too much from exactly enough.
    (&mut decoder)
        .take(max_bytes as u64 + 1)
        .read_to_end(&mut content)
        .map_err(|error| invalid(format!("the zstd frame is damaged: {error}")))?;
    if content.len() > max_bytes {
        return Err(invalid(format!("the zstd frame holds more than the {max_bytes} bytes allowed")));
    }
    end(decoder, what)?;
    Ok(content)
}

/// Reads zstd frames that come in pieces, one after the other, into pieces of a size that the caller chooses: a
/// small input may hold gigabytes.
pub struct StreamDecoder {
    raw: zstd::stream::raw::Decoder<'static>,
    name: String,
    input: Vec<u8>,
    read: usize,
    inside_frame: bool,
}

impl StreamDecoder {
    /// `name` stands for the data in errors.
    pub fn new(name: &str) -> Result<Self> {
        let raw = zstd::stream::raw::Decoder::new().map_err(|source| Error::io(name, source))?;
        Ok(Self { raw, name: name.to_owned(), input: Vec::new(), read: 0, inside_frame: false })
    }

    /// Whether the data so far ends inside a frame, so that more must follow.
    pub fn inside_frame(&self) -> bool {
        self.inside_frame || self.read < self.input.len()
    }

    /// Takes in `data` and fills `out` from the front. Fewer bytes than `out` holds mean that more input is needed.
    pub fn decode(&mut self, data: &[u8], out: &mut [u8]) -> Result<usize> {
        self.input.drain(..self.read);
        self.read = 0;
        self.input.extend_from_slice(data);
        let mut written = 0;
        while written < out.len() {
            let rest = self.input.get(self.read..).unwrap_or_default();
            let room = out.get_mut(written..).unwrap_or_default();
            let status = zstd::stream::raw::Operation::run_on_buffers(&mut self.raw, rest, room)
                .map_err(|error| Error::format(&self.name, format!("the zstd data is damaged: {error}")))?;
            if status.bytes_read == 0 && status.bytes_written == 0 {
                break;
            }
            self.read += status.bytes_read;
            written += status.bytes_written;
            self.inside_frame = status.remaining > 0;
        }
        Ok(written)
    }
}
