//! A sparse oracle in ARPA form, which other n-gram toolkits read.
//!
//! The form has, for each n-gram, log10 of its probability and of its weight as a context. An n-gram that isn't there has
//! its context's weight times the probability of the n-gram without its oldest token. That is what this model is, so the
//! probabilities are the same but for rounding.

use std::collections::BTreeMap;
use std::io::Write;

use super::ngram::{MAX_ORDER, MAX_VOCAB};
use super::oracle::{PackedOrder, SparseOracle};
use super::restore::{root, RestoredOrder};
use crate::oracle::interface::Oracle;
use crate::parallel::Control;
use crate::vocabulary::Vocabulary;
use crate::{Error, Result};

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

/// What an ARPA file begins with, after any blank lines.
pub const MAGIC: &[u8] = b"\\data\\";

/// How far the probabilities after a context may be from summing to one.
const TOLERANCE: f64 = 1e-3;

/// Below this share of what is left, a context's weight is too inexact to be worked out, and is taken from the file.
const TELLING: f64 = 1e-2;

/// log10 of probabilities below it is that of none.
const LOWEST: f64 = -90.0;

type Key = [u16; MAX_ORDER];

/// An n-gram as the file has it; one that only others need has no probability of its own.
#[derive(Debug, Clone, Copy)]
struct Line {
    probability: Option<f64>,
    backoff: f64,
}

/// Reads an ARPA file, whose words are token ids, `<s>`, `</s>` and `<unk>`; `what` names it in errors.
///
/// `<s>` as context and `</s>` as what is predicted both stand for the document token: where one document ends, the next
/// begins. (Where `</s>` has no probability, `<s>` as what is predicted does.) What `<unk>` has is shared out among tokens
/// without a unigram. Without a `vocabulary`, its document token is the one id that has no unigram, or that after the last.
///
/// Contexts' weights are worked out from the probabilities, so that rows sum to one; a file in which they would have to
/// be other ones is refused.
pub fn decode(
    data: &[u8],
    what: &str,
    vocabulary: Option<Vocabulary>,
    control: &Control,
) -> Result<SparseOracle> {
    let text = std::str::from_utf8(data).map_err(|error| {
        Error::format(what, format!("not text: byte {} is not UTF-8", error.valid_up_to()))
    })?;
    let parsed = parse(text, what, control)?;
    let vocabulary = match vocabulary {
        Some(vocabulary) => vocabulary,
        None => guess(&parsed, what)?,
    };
    vocabulary.check()?;
    if vocabulary.size > MAX_VOCAB {
        return Err(Error::format(what, format!("more than {MAX_VOCAB} tokens")));
    }
    let mut orders = by_tokens(parsed, vocabulary, what)?;
    complete(&mut orders);
    build(orders, vocabulary, what, control)
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Word {
    Token(u16),
    Start,
    End,
    Unknown,
}

type Parsed = Vec<Vec<(Vec<Word>, f64, f64, usize)>>;

/// Of each order the n-grams, their logarithms and the line that each is on.
fn parse(text: &str, what: &str, control: &Control) -> Result<Parsed> {
    let mut declared: Vec<u64> = Vec::new();
    let mut found: Parsed = Vec::new();
    let mut ended = false;
    let mut begun = false;
    for (number, line) in text.lines().enumerate() {
        let wrong = |detail: &str| Error::format(what, format!("line {}: {detail}", number + 1));
        let line = line.trim();
        if number % (1 << 16) == 0 {
            control.check()?;
        }
        if line.is_empty() {
            continue;
        }
        if !begun {
            begun = line.as_bytes() == MAGIC;
            if !begun {
                return Err(wrong("not \\data\\, which an ARPA file begins with"));
            }
            continue;
        }
        if let Some(count) = line.strip_prefix("ngram ").filter(|_| found.is_empty()) {
            let (order, count) = count.split_once('=').ok_or_else(|| wrong("not ngram ORDER=COUNT"))?;
            if order.trim().parse() != Ok(declared.len() + 1) || declared.len() == MAX_ORDER {
                return Err(wrong("orders must ascend from 1 to 8 at most"));
            }
            declared.push(count.trim().parse().map_err(|_| wrong("not a count"))?);
        } else if line == "\\end\\" {
            ended = true;
            break;
        } else if line.starts_with('\\') {
            if line != format!("\\{}-grams:", found.len() + 1) || found.len() == declared.len() {
                return Err(wrong("not the next section"));
            }
            found.push(Vec::new());
        } else {
            let order = found.len();
            let Some(section) = found.last_mut() else {
                return Err(wrong("an n-gram before the first section"));
            };
            let number_of = |word: &str| {
                word.parse::<f64>()
                    .ok()
                    .filter(|value| value.is_finite())
                    .ok_or_else(|| wrong("not a number"))
            };
            let mut fields = line.split_ascii_whitespace();
            let probability = number_of(fields.next().unwrap_or_default())?;
            let mut words = Vec::with_capacity(order);
            for _ in 0..order {
                words.push(match fields.next() {
                    Some("<s>") => Word::Start,
                    Some("</s>") => Word::End,
                    Some("<unk>" | "<UNK>") => Word::Unknown,
                    Some(word) => Word::Token(
                        word.parse().map_err(|_| wrong("a word that is no token id: words must be ids"))?,
                    ),
                    None => return Err(wrong("too few words")),
                });
            }
            let backoff = fields.next().map_or(Ok(0.0), number_of)?;
            if fields.next().is_some() {
                return Err(wrong("too many words"));
            }
            if probability > 1e-6 {
                return Err(wrong("a probability above 1"));
            }
            section.push((words, probability, backoff, number + 1));
        }
    }
    let counts: Vec<u64> = found.iter().map(|section| section.len() as u64).collect();
    if !ended || counts != declared || counts.is_empty() {
        return Err(Error::format(
            what,
            format!("n-grams of each order {counts:?} where {declared:?} are declared: is the file cut off?"),
        ));
    }
    Ok(found)
}

fn guess(parsed: &Parsed, what: &str) -> Result<Vocabulary> {
    let mut known: Vec<u16> = parsed[0]
        .iter()
        .filter_map(|(words, ..)| match words[0] {
            Word::Token(token) => Some(token),
            _ => None,
        })
        .collect();
    known.sort_unstable();
    known.dedup();
    let size = known.last().map_or(0, |&last| usize::from(last) + 1);
    match size - known.len() {
        0 if size < MAX_VOCAB => Ok(Vocabulary { bos: size as u16, ..Vocabulary::from(size + 1) }),
        1 => {
            let bos = known.iter().enumerate().find(|&(index, &token)| index != usize::from(token));
            let bos = bos.map_or(size - 1, |(index, _)| index);
            Ok(Vocabulary { bos: bos as u16, ..Vocabulary::from(size) })
        }
        missing => Err(Error::format(
            what,
            format!("{missing} token ids have no unigram, so that <s> may be any of them: Oracle.from_arpa takes a vocabulary"),
        )),
    }
}

/// Of each order from 1 on the n-grams in the order of their tokens.
fn by_tokens(parsed: Parsed, vocabulary: Vocabulary, what: &str) -> Result<Vec<BTreeMap<Key, Line>>> {
    let mut orders = Vec::with_capacity(parsed.len());
    let ends = parsed[0].iter().any(|(words, log, ..)| words[0] == Word::End && *log > LOWEST);
    let mut unknown = 0.0;
    for section in parsed {
        let mut ngrams: BTreeMap<Key, Line> = BTreeMap::new();
        for (words, log, log_backoff, number) in section {
            let wrong = |detail: &str| Error::format(what, format!("line {number}: {detail}"));
            let probability = if log > LOWEST { 10f64.powf(log) } else { 0.0 };
            let order = words.len();
            if words.contains(&Word::Unknown) {
                if order > 1 {
                    return Err(wrong(
                        "<unk> in a longer n-gram: the model must be of the tokens that there are",
                    ));
                }
                unknown = probability;
                continue;
            }
            let mut key = [0; MAX_ORDER];
            for (index, word) in words.iter().enumerate() {
                key[index] = match word {
                    Word::Token(token) => *token,
                    _ => vocabulary.bos,
                };
                if usize::from(key[index]) >= vocabulary.size {
                    return Err(wrong("a token outside the vocabulary"));
                }
            }
            let last = words[order - 1];
            // As what is predicted: of the two that stand for the document token, the one that has a probability.
            let counts = match last {
                Word::End => ends,
                Word::Start => !ends,
                _ => true,
            };
            let backoff = 10f64.powf(log_backoff.max(LOWEST));
            let line = ngrams.entry(key).or_insert(Line { probability: None, backoff: 1.0 });
            if counts {
                if line.probability.is_some() {
                    return Err(wrong("an n-gram that is there already"));
                }
                line.probability = Some(probability);
            }
            if last != Word::End {
                line.backoff = backoff;
            }
        }
        orders.push(ngrams);
    }
    let absent: Vec<Key> = (0..vocabulary.size as u16)
        .map(|token| key_of(&[token]))
        .filter(|key| orders[0].get(key).is_none_or(|line| line.probability.is_none()))
        .collect();
    if !absent.is_empty() && unknown <= 0.0 {
        return Err(Error::format(
            what,
            format!("token {} has no unigram, and <unk> no probability to give it", absent[0][0]),
        ));
    }
    for key in &absent {
        let line = orders[0].entry(*key).or_insert(Line { probability: None, backoff: 1.0 });
        line.probability = Some(unknown / absent.len() as f64);
    }
    Ok(orders)
}

fn key_of(tokens: &[u16]) -> Key {
    let mut key = [0; MAX_ORDER];
    key[..tokens.len()].copy_from_slice(tokens);
    key
}

/// Adds the prefixes and suffixes that are missing. They change nothing: without a probability of its own an n-gram has
/// what its context's weight gives it, and as a context it weighs 1.
fn complete(orders: &mut [BTreeMap<Key, Line>]) {
    for order in (2..=orders.len()).rev() {
        let (below, above) = orders.split_at_mut(order - 1);
        let below = &mut below[order - 2];
        for key in above[0].keys() {
            for part in [&key[..order - 1], &key[1..order]] {
                below.entry(key_of(part)).or_insert(Line { probability: None, backoff: 1.0 });
            }
        }
    }
}

fn build(
    orders: Vec<BTreeMap<Key, Line>>,
    vocabulary: Vocabulary,
    what: &str,
    control: &Control,
) -> Result<SparseOracle> {
    let total: f64 = orders[0].values().filter_map(|line| line.probability).sum();
    if (total - 1.0).abs() > TOLERANCE {
        return Err(Error::format(what, format!("the unigrams sum to {total:.6}, not to 1")));
    }
    let mut restored = vec![root(vocabulary.size, 0)];
    // Of the order below: its n-grams and p of each.
    let mut keys: Vec<Key> = orders[0].keys().copied().collect();
    let mut probabilities: Vec<f64> =
        orders[0].values().map(|line| line.probability.unwrap_or_default() / total).collect();
    let as_order = |keys: &[Key], order: usize, probabilities: &[f64], discounted: Vec<f32>| RestoredOrder {
        tokens: keys.iter().map(|key| key[order - 1]).collect(),
        discounted,
        probabilities: probabilities.iter().map(|&p| p as f32).collect(),
        backoffs: vec![1.0; keys.len()],
        first: vec![0; keys.len() + 1],
        ..RestoredOrder::default()
    };
    let discounted = probabilities.iter().map(|&p| p as f32).collect();
    restored.push(as_order(&keys, 1, &probabilities, discounted));
    for order in 2..=orders.len() + 1 {
        control.check()?;
        let none = BTreeMap::new();
        let ngrams: Vec<(&Key, &Line)> = orders.get(order - 1).unwrap_or(&none).iter().collect();
        let contexts = &orders[order - 2];
        let (mut own, mut discounted) = (Vec::with_capacity(ngrams.len()), Vec::with_capacity(ngrams.len()));
        let (mut first, mut backoffs) = (vec![0u32], Vec::with_capacity(contexts.len()));
        let mut next = 0;
        for (context, line) in contexts {
            let start = next;
            while next < ngrams.len() && ngrams[next].0[..order - 1] == context[..order - 1] {
                next += 1;
            }
            let successors = &ngrams[start..next];
            // p(w | h') of each.
            let shorter: Vec<f64> = successors
                .iter()
                .map(|(key, _)| {
                    keys.binary_search(&key_of(&key[1..order])).map_or(0.0, |at| probabilities[at])
                })
                .collect();
            let known = || {
                let pairs = successors.iter().zip(&shorter);
                pairs.filter_map(|((_, line), shorter)| line.probability.map(|p| (p, *shorter)))
            };
            let (sum, shorter_sum) =
                known().fold((0.0, 0.0), |(sum, shorter_sum), (p, shorter)| (sum + p, shorter_sum + shorter));
            let (left, shorter_left) = (1.0 - sum, 1.0 - shorter_sum);
            let total = sum + line.backoff * shorter_left;
            if (total - 1.0).abs() > TOLERANCE {
                return Err(Error::format(
                    what,
                    format!("what follows {:?} sums to {total:.6}, not to 1", &context[..order - 1]),
                ));
            }
            let backoff = if shorter_left > TELLING { (left / shorter_left).max(0.0) } else { line.backoff };
            for ((_, line), shorter) in successors.iter().zip(&shorter) {
                let p = line.probability.unwrap_or(backoff * shorter);
                own.push(p);
                discounted.push((p - backoff * shorter) as f32);
            }
            first.push(next as u32);
            backoffs.push(backoff as f32);
        }
        restored[order - 1].first = first;
        restored[order - 1].backoffs = backoffs;
        if order <= orders.len() {
            keys = ngrams.iter().map(|(key, _)| **key).collect();
            probabilities = own;
            restored.push(as_order(&keys, order, &probabilities, discounted));
        }
    }
    let stream_bytes = vec![0; orders.len()];
    let packed = restored.into_iter().map(PackedOrder::from).collect();
    Ok(SparseOracle::new(vocabulary, packed, 0, stream_bytes))
}
