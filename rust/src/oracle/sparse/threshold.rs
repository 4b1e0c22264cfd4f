//! The lowest threshold of pruning at which a file fits a number of bytes.
//!
//! The thresholds of a fixed grid are bisected. So two budgets try the same thresholds up to the first one whose file
//! fits the larger budget only; from there on the larger one tries lower thresholds and the smaller one higher ones. A
//! larger budget therefore never ends with the higher threshold, however irregular the sizes of files are.
//!
//! Making a file takes long; counting the n-grams that a threshold leaves doesn't. The more of a corpus is kept, the
//! more predictable the next n-grams are and the fewer bytes they take: to a good approximation, a file's size is a
//! concave function of its number of n-grams. So the files made so far bound the size of every other, and a file is made
//! only where these bounds leave a doubt.

use std::collections::BTreeMap;

use crate::Result;

/// What is searched.
pub trait Candidates {
    /// How many n-grams a threshold leaves.
    fn ngrams(&mut self, threshold: f64) -> Result<usize>;

    /// The file of these n-grams; none if the format can't hold them.
    fn file(&mut self, threshold: f64) -> Result<Option<Vec<u8>>>;
}

/// The lowest threshold, where everything that is worth anything is kept.
const LEAST_THRESHOLD: f64 = 1e-3;

/// Thresholds per factor of e. The files of neighbours differ by less than half a percent.
const STEPS_PER_NEPER: f64 = 128.0;

/// The step of the highest threshold, 10^18, where no n-gram is kept.
const LAST_STEP: usize = 6190;

/// If everything would fit the budget at so many bits per n-gram, that is tried first: a file of everything may be
/// smaller than one of nearly everything.
const BITS_OF_EVERYTHING: f64 = 2.5;

/// Where the search begins: bits per n-gram in a file of a million, and how many fewer there are in one of twice as many.
const BITS_OF_A_MILLION: f64 = 6.93;
const BITS_SAVED_BY_DOUBLING: f64 = 0.15;

/// The power of the number of n-grams that sizes are taken to grow with while only one file is known.
const GROWTH: f64 = 0.85;

/// How far a size may lie outside its bounds, relatively and in bytes.
const DOUBT: f64 = 0.001;
const DOUBT_BYTES: f64 = 24.0;

/// The file of the lowest threshold that fits `max_bytes`; none if not even one without n-grams does.
pub fn search(candidates: &mut impl Candidates, max_bytes: usize) -> Result<Option<Vec<u8>>> {
    let (numbers, made) = (BTreeMap::new(), BTreeMap::new());
    let sizes = Sizes::default();
    let mut search = Search { candidates, max_bytes, sizes, numbers, made, best: None, all_held: true };
    if !search.make(LAST_STEP)? {
        return Ok(None);
    }
    let everything = search.ngrams(0)? as f64;
    if everything * BITS_OF_EVERYTHING > 8.0 * max_bytes as f64 || !search.make(0)? {
        while let Some(step) = search.in_doubt()? {
            search.make(step)?;
        }
    }
    Ok(search.best.map(|(_, file)| file))
}

struct Search<'a, C> {
    candidates: &'a mut C,
    max_bytes: usize,
    sizes: Sizes,
    /// How many n-grams a step leaves, where that was counted.
    numbers: BTreeMap<usize, usize>,
    /// Whether a step's file fits, where it was made.
    made: BTreeMap<usize, bool>,
    /// The lowest step whose file was made and fits, and that file.
    best: Option<(usize, Vec<u8>)>,
    /// Whether the format could hold all files so far, so that sizes alone decide.
    all_held: bool,
}

impl<C: Candidates> Search<'_, C> {
    /// Bisects by what is known and, where there is doubt, by what is likely. Returns a step whose file must be made to
    /// be sure; none if the result is certain.
    fn in_doubt(&mut self) -> Result<Option<usize>> {
        let max_bytes = self.max_bytes as f64;
        let wanted = self.sizes.wanted(max_bytes);
        let (mut too_low, mut fits) = (0, LAST_STEP);
        let mut doubtful = None;
        while fits - too_low > 1 {
            let middle = (too_low + fits) / 2;
            let middle_fits = match self.made.get(&middle) {
                Some(&fits) => fits,
                None => {
                    let ngrams = self.ngrams(middle)? as f64;
                    let (least, most) = self.sizes.bounds(ngrams);
                    if max_bytes < least {
                        false
                    } else if most <= max_bytes && self.all_held {
                        true
                    } else {
                        doubtful = Some(middle);
                        ngrams <= wanted
                    }
                }
            };
            if middle_fits {
                fits = middle;
            } else {
                too_low = middle;
            }
        }
        Ok(if self.made.contains_key(&fits) { doubtful } else { Some(fits) })
    }

    fn ngrams(&mut self, step: usize) -> Result<usize> {
        if let Some(&number) = self.numbers.get(&step) {
            return Ok(number);
        }
        let number = self.candidates.ngrams(threshold(step))?;
        self.numbers.insert(step, number);
        Ok(number)
    }

    /// Makes a step's file; returns whether it fits.
    fn make(&mut self, step: usize) -> Result<bool> {
        let number = self.ngrams(step)?;
        let mut fits = false;
        match self.candidates.file(threshold(step))? {
            Some(file) => {
                self.sizes.add(number as f64, file.len() as f64, self.max_bytes as f64);
                fits = file.len() <= self.max_bytes;
                if fits && self.best.as_ref().is_none_or(|best| step < best.0) {
                    self.best = Some((step, file));
                }
            }
            None => self.all_held = false,
        }
        self.made.insert(step, fits);
        Ok(fits)
    }
}

fn threshold(step: usize) -> f64 {
    LEAST_THRESHOLD * (step as f64 / STEPS_PER_NEPER).exp()
}

/// What is known of file sizes as a function of the number of n-grams.
#[derive(Default)]
struct Sizes {
    /// (n-grams, bytes) of the files made; n-grams strictly ascending.
    known: Vec<(f64, f64)>,
    /// How many of the latest files in a row were too large (positive) or fitted (negative).
    same_side: i32,
}

impl Sizes {
    fn add(&mut self, ngrams: f64, bytes: f64, max_bytes: f64) {
        let side = if bytes > max_bytes { 1 } else { -1 };
        self.same_side = if self.same_side * side > 0 { self.same_side + side } else { side };
        let at = self.known.partition_point(|known| known.0 < ngrams);
        match self.known.get_mut(at) {
            Some(known) if known.0 == ngrams => known.1 = bytes,
            _ => self.known.insert(at, (ngrams, bytes)),
        }
    }

    /// The number of n-grams whose file probably has `max_bytes`.
    fn wanted(&self, max_bytes: f64) -> f64 {
        let (fit, too_large) = self.known.split_at(self.known.partition_point(|known| known.1 <= max_bytes));
        let empty = self.known.first().map_or(0.0, |known| known.1);
        let last = fit.last().filter(|last| last.0 > 0.0);
        // ln(bytes / wanted), both without those of a file of no n-grams.
        let off = |known: &(f64, f64)| ((known.1 - empty) / (max_bytes - empty).max(1.0)).ln();
        match (last, too_large) {
            (Some(last), []) => last.0 * (-off(last) / GROWTH).exp(),
            (None, [next, _, ..]) => next.0 * (-off(next) / GROWTH).exp(),
            (None, _) => {
                let guess = 8.0 * max_bytes / BITS_OF_A_MILLION;
                let bits = BITS_OF_A_MILLION - BITS_SAVED_BY_DOUBLING * (guess.max(1e3) / 1e6).log2();
                8.0 * (max_bytes - empty) / bits
            }
            (Some(last), [next, ..]) => {
                // The Illinois variant of the method of false position (Dowell and Jarratt, 1971): the offset of the
                // end that stays is halved each time, or else it would stay for long.
                let stays = 0.5f64.powi(self.same_side.abs() - 1);
                let (below, above) = (-off(last), off(next));
                let (below, above) =
                    if self.same_side > 0 { (stays * below, above) } else { (below, stays * above) };
                last.0 * (next.0 / last.0).powf(below / (below + above))
            }
        }
    }

    /// The least and the most bytes that a file of so many n-grams can have.
    fn bounds(&self, ngrams: f64) -> (f64, f64) {
        let (below, above) = self.known.split_at(self.known.partition_point(|known| known.0 <= ngrams));
        // A concave function lies above its chord, and below the chord's extensions.
        let (mut least, mut most) = match (below.last(), above.first()) {
            (Some(&last), Some(&next)) => (through(last, next, ngrams), next.1),
            (Some(&last), None) => (last.1, f64::INFINITY),
            (None, _) => (0.0, f64::INFINITY),
        };
        if let [.., before, last] = below {
            most = most.min(through(*before, *last, ngrams));
        }
        if let [next, after, ..] = above {
            most = most.min(through(*next, *after, ngrams));
        }
        if below.last().is_some_and(|last| last.0 == ngrams) {
            (least, most) = (below[below.len() - 1].1, below[below.len() - 1].1);
        }
        (least * (1.0 - DOUBT) - DOUBT_BYTES, most * (1.0 + DOUBT) + DOUBT_BYTES)
    }
}

/// The value at `x` of the line through two points.
fn through(one: (f64, f64), other: (f64, f64), x: f64) -> f64 {
    one.1 + (other.1 - one.1) * (x - one.0) / (other.0 - one.0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A corpus as real ones are: the more n-grams are kept, the fewer bytes the next one takes, and the last ones
    /// make the file smaller. Each file is off by a little.
    struct Corpus {
        all: f64,
        jitter: f64,
        seed: u64,
        made: usize,
    }

    impl Corpus {
        fn bytes(&self, threshold: f64) -> usize {
            let share = self.share(threshold);
            let mut hash = threshold.to_bits() ^ self.seed;
            hash = (hash ^ hash >> 31).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let off = self.jitter * ((hash >> 40) as f64 / f64::from(1 << 23) - 1.0);
            (735.0 + self.all * (share.powf(0.9) * 0.95 - 0.55 * share.powi(3)) * (1.0 + off)) as usize
        }

        fn share(&self, threshold: f64) -> f64 {
            (1.0 + threshold).powf(-0.8)
        }
    }

    impl Candidates for Corpus {
        fn ngrams(&mut self, threshold: f64) -> Result<usize> {
            Ok((self.all * self.share(threshold)) as usize)
        }

        fn file(&mut self, threshold: f64) -> Result<Option<Vec<u8>>> {
            self.made += 1;
            Ok(Some(vec![0; self.bytes(threshold)]))
        }
    }

    /// By bisection in which each file is made.
    fn bisected(corpus: &Corpus, max_bytes: usize) -> Option<usize> {
        let fits = |step: usize| corpus.bytes(threshold(step)) <= max_bytes;
        if !fits(LAST_STEP) {
            return None;
        }
        if corpus.all * corpus.share(LEAST_THRESHOLD) * BITS_OF_EVERYTHING <= 8.0 * max_bytes as f64
            && fits(0)
        {
            return Some(0);
        }
        let (mut too_low, mut found) = (0, LAST_STEP);
        while found - too_low > 1 {
            let middle = (too_low + found) / 2;
            *(if fits(middle) { &mut found } else { &mut too_low }) = middle;
        }
        Some(found)
    }

    proptest! {
        /// So the larger of two budgets never has the higher threshold.
        #[test]
        fn the_search_finds_what_bisection_finds_in_few_files(
            all in 3.0f64..7.0, share in 0.0f64..1.2, jitter in 0.0f64..3e-4, seed in any::<u64>(),
        ) {
            let mut corpus = Corpus { all: 10f64.powf(all), jitter, seed, made: 0 };
            let max_bytes = (700.0 + share * 0.5 * corpus.all) as usize;
            let found = search(&mut corpus, max_bytes).unwrap();
            let expected = bisected(&corpus, max_bytes).map(|step| corpus.bytes(threshold(step)));
            prop_assert_eq!(found.map(|file| file.len()), expected);
            // Small ones take no time.
            prop_assert!(corpus.made <= 12 || max_bytes < 20_000, "{} files", corpus.made);
        }
    }

    /// Sizes without rhyme or reason, and files that the format can't hold.
    struct Arbitrary {
        bytes: Vec<Option<usize>>,
    }

    impl Arbitrary {
        fn at(&self, threshold: f64) -> usize {
            let step = ((threshold / LEAST_THRESHOLD).ln() * STEPS_PER_NEPER).round() as usize;
            step * (self.bytes.len() - 1) / LAST_STEP
        }
    }

    impl Candidates for Arbitrary {
        fn ngrams(&mut self, threshold: f64) -> Result<usize> {
            Ok(10 * (self.bytes.len() - 1 - self.at(threshold)))
        }

        fn file(&mut self, threshold: f64) -> Result<Option<Vec<u8>>> {
            Ok(self.bytes[self.at(threshold)].map(|bytes| vec![0; bytes]))
        }
    }

    proptest! {
        #[test]
        fn whatever_is_found_fits_and_only_what_cannot_fit_is_not_found(
            bytes in prop::collection::vec(prop::option::weighted(0.8, 0usize..2000), 2..40),
            max_bytes in 0usize..2500,
        ) {
            let least = bytes[bytes.len() - 1];
            let fits = least.is_some_and(|least| least <= max_bytes);
            match search(&mut Arbitrary { bytes }, max_bytes).unwrap() {
                Some(file) => prop_assert!(fits && file.len() <= max_bytes),
                None => prop_assert!(!fits),
            }
        }
    }
}
