//! What plain byte models reach, to compare with: context-tree weighting and interpolated Kneser–Ney.
//!
//! A trained model is stored as its settings and the text that it learned, compressed. Learning is
//! deterministic and takes a second or two for a megabyte; the nodes themselves would take a hundred times
//! the space.

pub mod ctw;

use ctw::ContextTree;

use crate::experts::backoff::{self, Backoff};
use crate::parallel::Control;
use crate::{zstd_frame, Error, Result};

const MAGIC: &[u8; 4] = b"HLBM";
const VERSION: u8 = 1;
const HEADER: usize = 8;
/// The longest text that a stored model may unpack to.
const MAX_TEXT: usize = 1 << 30;
const LEVEL: i32 = 19;
/// Bytes between two checks whether to stop.
const PIECE: usize = 1 << 14;
const KN_CONTEXTS: usize = 1 << 23;
const KN_LENGTHS: [usize; backoff::MAX_LENGTH] = [1, 2, 3, 4, 5, 6, 7, 8];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Context-tree weighting.
    Ctw,
    /// Interpolated Kneser–Ney with learned back-off: [`Backoff`] over bytes.
    KneserNey,
}

impl Method {
    const ALL: [(Method, &'static str); 2] = [(Method::Ctw, "ctw"), (Method::KneserNey, "kn")];

    pub fn parse(name: &str) -> Result<Self> {
        let found = Self::ALL.iter().find(|(_, known)| *known == name);
        found
            .map(|(method, _)| *method)
            .ok_or_else(|| Error::input(format!("there is no baseline {name:?}; there are ctw and kn")))
    }

    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    /// Bytes of context where none are asked for.
    pub fn default_depth(self) -> usize {
        match self {
            Method::Ctw => 6,
            Method::KneserNey => 8,
        }
    }
}

enum Model {
    Ctw(ContextTree),
    KneserNey(Box<Backoff>),
}

/// A byte model and what it has learned.
pub struct Baseline {
    method: Method,
    depth: usize,
    model: Model,
    text: Vec<u8>,
}

impl Baseline {
    /// `depth`: bytes of context, 1 to 8.
    pub fn new(method: Method, depth: usize) -> Result<Self> {
        if !(1..=8).contains(&depth) {
            return Err(Error::input(format!("the depth is 1 to 8 bytes, not {depth}")));
        }
        let model = match method {
            Method::Ctw => Model::Ctw(ContextTree::new(ctw::Config { depth, ..Default::default() })?),
            Method::KneserNey => {
                let config = backoff::Config { lengths: &KN_LENGTHS[..depth], contexts: KN_CONTEXTS };
                Model::KneserNey(Box::new(Backoff::new(256, config)?))
            }
        };
        Ok(Self { method, depth, model, text: Vec::new() })
    }

    pub fn method(&self) -> Method {
        self.method
    }

    pub fn depth(&self) -> usize {
        self.depth
    }

    /// The code length of `text` in bits. Every byte is predicted from all before it, then learned, so the
    /// second half of a text profits from the first.
    pub fn code(&mut self, text: &[u8], control: &Control) -> Result<f64> {
        let mut bits = 0.0;
        for piece in text.chunks(PIECE) {
            bits += match &mut self.model {
                Model::Ctw(tree) => piece.iter().map(|&byte| tree.code(byte)).sum::<f64>(),
                Model::KneserNey(model) => {
                    piece.iter().map(|&byte| -f64::from(model.update(byte.into()).0).log2()).sum()
                }
            };
            self.text.extend_from_slice(piece);
            control.advance(piece.len() as u64)?;
        }
        Ok(bits)
    }

    /// The stored model: `"HLBM", u8 version, u8 method, u8 depth, u8 0`, then a zstd frame of the text.
    pub fn to_bytes(&self, control: &Control) -> Result<Vec<u8>> {
        let mut data = MAGIC.to_vec();
        data.extend([VERSION, self.method as u8, self.depth as u8, 0]);
        data.extend(zstd_frame::compress(&self.text, LEVEL, control)?);
        Ok(data)
    }

    /// Rebuilds a stored model; `name` stands for the file in errors.
    pub fn from_bytes(data: &[u8], name: &str, control: &Control) -> Result<Self> {
        let wrong = |message: &str| Error::format(name, message);
        let (header, frame) =
            data.split_at_checked(HEADER).ok_or_else(|| wrong("too short to be a stored baseline"))?;
        if &header[..4] != MAGIC {
            return Err(wrong("not a stored baseline: it doesn't begin with HLBM"));
        }
        if header[4] != VERSION {
            return Err(wrong(&format!("version {} of the format, this reads {VERSION}", header[4])));
        }
        let method = Method::ALL.get(usize::from(header[5])).map(|(method, _)| *method);
        let method = method.ok_or_else(|| wrong(&format!("method {} at offset 5 is unknown", header[5])))?;
        let depth = usize::from(header[6]);
        if !(1..=8).contains(&depth) || header[7] != 0 {
            return Err(wrong(&format!("depth {depth} and padding {} at offset 6", header[7])));
        }
        let text = zstd_frame::decompress(frame, MAX_TEXT, name)?;
        let mut model = Self::new(method, depth)?;
        model.code(&text, control)?;
        Ok(model)
    }
}
