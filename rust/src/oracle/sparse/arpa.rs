//! A sparse oracle in ARPA form, which other n-gram toolkits read.
//!
//! The form has, for each n-gram, log10 of its probability and of its weight as a context. An n-gram that isn't there has
//! its context's weight times the probability of the n-gram without its oldest token. That is what this model is, so the
//! probabilities are the same but for rounding.

use std::io::Write;

use crate::oracle::interface::Oracle;

/// What ARPA files have in place of log10 of 0.
const NEVER: f32 = -99.0;

/// Writes the model. Words are token ids, but for `<s>`, the document token. `</s>` and `<unk>`, which toolkits want to
/// find, get no probability.
///
/// Writes nothing and returns false where the oracle has no n-grams.
pub fn write(oracle: &dyn Oracle, out: &mut dyn Write) -> std::io::Result<bool> {
    let order = oracle.orders().len();
    let mut counts = vec![0u64; order + 1];
    if !oracle.visit_ngrams(&mut |ngram, _| counts[ngram.len()] += 1) {
        return Ok(false);
    }
    counts[1] += 2;
    let bos = oracle.vocabulary().bos;
    let mut wrote = Ok(());
    let mut section = 0;
    let mut values = vec![[0f32; 1]; order];
    let mut put = |text: String| {
        if wrote.is_ok() {
            wrote = out.write_all(text.as_bytes());
        }
    };
    put("\\data\\\n".into());
    for (order, count) in counts.iter().enumerate().skip(1) {
        put(format!("ngram {order}={count}\n"));
    }
    oracle.visit_ngrams(&mut |ngram, backoff| {
        if ngram.len() != section {
            section = ngram.len();
            put(format!("\n\\{section}-grams:\n"));
            if section == 1 {
                put(format!("{NEVER}\t<unk>\n{NEVER}\t</s>\n"));
            }
        }
        let mut planes: Vec<&mut [f32]> = values.iter_mut().map(|value| &mut value[..]).collect();
        oracle.target_kernel(ngram, section - 1..section, &mut planes);
        let words: Vec<String> = ngram
            .iter()
            .map(|&token| if token == bos { "<s>".to_owned() } else { token.to_string() })
            .collect();
        let probability = (f64::from(values[section - 1][0]) / std::f64::consts::LN_10) as f32;
        put(format!("{}\t{}", probability.max(NEVER), words.join(" ")));
        if backoff != 1.0 {
            put(format!("\t{}", (f64::from(backoff).log10() as f32).max(NEVER)));
        }
        put("\n".into());
    });
    put("\n\\end\\\n".into());
    wrote.map(|()| true)
}
