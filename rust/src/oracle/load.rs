//! Reading an oracle file of any kind.

use crate::kinds::looks_like;
use crate::oracle::dense::oracle::DenseOracle;
use crate::oracle::dense::{ngor_packed, ngor_v1};
use crate::oracle::interface::Oracle;
use crate::oracle::sparse::{arpa, ngsp};
use crate::parallel::Control;
use crate::{Error, Result};

/// Reads an oracle file of any kind, which is recognised by its first bytes. `what` names the data in errors.
pub fn load(data: &[u8], what: &str, threads: usize, control: &Control) -> Result<Box<dyn Oracle>> {
    match data {
        _ if [ngor_packed::MAGIC, ngor_packed::MAGIC_WITHOUT_IDENTITY]
            .iter()
            .any(|magic| data.starts_with(magic)) =>
        {
            Ok(Box::new(DenseOracle::from(ngor_packed::decode(data, what, threads)?)))
        }
        _ if data.starts_with(&ngsp::MAGIC) => Ok(Box::new(ngsp::decode(data, what, threads, control)?)),
        _ if data.starts_with(&ZSTD_MAGIC) => Ok(Box::new(DenseOracle::from(ngor_v1::decode(data, what)?))),
        _ if data.trim_ascii_start().starts_with(arpa::MAGIC) => {
            Ok(Box::new(arpa::decode(data, what, None, control)?))
        }
        _ => Err(Error::format(what, format!("not an oracle: {}", what_it_is(data)))),
    }
}

fn what_it_is(data: &[u8]) -> String {
    let Some(kind) = looks_like(data) else {
        return "it begins like none of the formats known here".into();
    };
    let hint = match kind {
        "a token shard" => "; `hybridlm oracle build` makes an oracle of shards",
        "partial counts" => "; `hybridlm oracle build` makes an oracle of them",
        _ => "",
    };
    format!("it looks like {kind}{hint}")
}

/// A zstd frame's first bytes.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
