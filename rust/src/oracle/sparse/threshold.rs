//! The lowest threshold of pruning at which a file fits a number of bytes.
//!
//! The thresholds of a fixed grid are bisected. So two budgets try the same thresholds up to the first one whose file
//! fits the larger budget only; from there on the larger one tries lower thresholds and the smaller one higher ones. A
//! larger budget therefore never ends with the higher threshold, however irregular the sizes of files are.
//!
//! Making a file takes long, and counting the n-grams that a threshold leaves takes a while. But sizes and numbers of
//! n-grams are smooth along the grid. To a good approximation, the higher threshold leaves fewer n-grams, and a file's size
//! is a concave function of its number of n-grams: the more of a corpus is kept, the more predictable the next n-grams
//! are. So what was made and counted bounds the rest of the grid, and only what these bounds leave in doubt is counted, or
//! made.

use std::collections::BTreeMap;

use crate::Result;

/// What is searched.
pub trait Candidates {
    /// At least as many n-grams as any threshold leaves.
    fn most_ngrams(&self) -> usize;

    /// The file without n-grams, which the highest threshold would leave; none as for others.
    fn empty(&mut self) -> Result<Option<Vec<u8>>>;

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

/// If everything would fit the budget at this many bits per n-gram, that is tried first: a file of everything may be
/// smaller than one of nearly everything.
const BITS_OF_EVERYTHING: f64 = 2.5;

/// Where the search begins: bits per n-gram in a file of a million, and how many fewer there are in one of twice as many.
const BITS_OF_A_MILLION: f64 = 6.6;
const BITS_SAVED_BY_DOUBLING: f64 = 0.15;

/// Where counting begins, for files of a million bytes, and by how much a step there changes the logarithm of the number
/// of n-grams.
const FIRST_STEP: usize = 1000;
const LOSS_PER_STEP: f64 = 0.0045;

/// The power of the number of n-grams that sizes grow with while only one file is known.
const GROWTH: f64 = 0.9;

/// A number of n-grams is near enough to the wanted one if the logarithm of their ratio is below this. If a file less than
/// a factor of e away from the wanted number was made, the limit shrinks with the logarithm of that ratio.
const NEAR: f64 = 0.04;

/// Numbers of n-grams are interpolated over this many steps.
const INTERPOLATED: usize = 2;

/// This many files should be enough. If they aren't, sizes aren't what they are taken for, and what is in doubt is
/// bisected.
const PATIENCE: usize = 7;

/// How far a size may lie outside its bounds, relatively and in bytes.
const DOUBT: f64 = 0.0015;
const DOUBT_BYTES: f64 = 24.0;

/// Files of fewer bytes take no time to make, and their sizes don't follow what is typical of larger ones.
const SMALL: usize = 50_000;

/// The file of the lowest threshold that fits `max_bytes`; none if not even one without n-grams does.
pub fn search(candidates: &mut impl Candidates, max_bytes: usize) -> Result<Option<Vec<u8>>> {
    let most = candidates.most_ngrams() as f64;
    let sizes = Sizes { most, small: max_bytes < SMALL, ..Sizes::default() };
    let numbers = BTreeMap::from([(LAST_STEP, 0)]);
    let made = BTreeMap::new();
    let mut search = Search { candidates, max_bytes, sizes, numbers, made, best: None, all_held: true };
    let empty = search.candidates.empty()?;
    if !search.note(LAST_STEP, empty) {
        return Ok(None);
    }
    if most * BITS_OF_EVERYTHING > 8.0 * max_bytes as f64 || !search.make(0)? {
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
    /// Returns a step whose file must be made to be sure; none if the result is certain.
    fn in_doubt(&mut self) -> Result<Option<usize>> {
        loop {
            let likely = if self.made.len() < PATIENCE { Some(self.likely()?) } else { None };
            let (found, doubtful) = self.bisect(likely);
            let step = match doubtful {
                _ if likely.is_some() && !self.made.contains_key(&found) => found,
                Some(step) => step,
                None if !self.made.contains_key(&found) => found,
                None => return Ok(None),
            };
            if self.numbers.contains_key(&step) {
                return Ok(Some(step));
            }
            // Its number of n-grams may tell enough.
            self.ngrams(step)?;
        }
    }

    /// Bisects by what is known and, where there is doubt, by the step that is likely to be the result, if any is. Returns
    /// what is found, and the last step that was in doubt.
    fn bisect(&self, likely: Option<usize>) -> (usize, Option<usize>) {
        let (mut too_low, mut fits) = (0, LAST_STEP);
        let mut doubtful = None;
        while fits - too_low > 1 {
            let middle = (too_low + fits) / 2;
            let middle_fits = match (self.known(middle), likely) {
                (Some(known), _) => known,
                (None, Some(likely)) => {
                    doubtful = Some(middle);
                    middle >= likely
                }
                (None, None) => return (fits, Some(middle)),
            };
            *(if middle_fits { &mut fits } else { &mut too_low }) = middle;
        }
        (fits, doubtful)
    }

    /// Whether a step's file fits, if that is certain.
    fn known(&self, step: usize) -> Option<bool> {
        if let Some(&fits) = self.made.get(&step) {
            return Some(fits);
        }
        let number = |found: Option<(&usize, &usize)>| found.map(|(_, &number)| number as f64);
        let fewest = number(self.numbers.range(step..).next()).unwrap_or(0.0);
        let most = number(self.numbers.range(..=step).next_back()).unwrap_or(self.sizes.most);
        let max_bytes = self.max_bytes as f64;
        if max_bytes < self.sizes.bounds(fewest).0 {
            Some(false)
        } else if self.all_held && self.sizes.bounds(most).1 <= max_bytes {
            Some(true)
        } else {
            None
        }
    }

    /// The lowest step whose file is likely to fit.
    fn likely(&mut self) -> Result<usize> {
        let wanted = self.sizes.wanted(self.max_bytes as f64).max(1.0);
        let distance = |number: usize| (number.max(1) as f64 / wanted).ln();
        // The further from what is known, the less certain is the number that is wanted.
        let made = self.sizes.known.iter().skip(1).map(|known| (known.0 / wanted).ln().abs());
        let near_enough = NEAR * made.fold(1.0, f64::min);
        let mut one_sided = 0;
        for attempt in 1u32.. {
            // The nearest steps that were counted, with more n-grams and with at most as many as wanted, and how many
            // nepers that is off.
            let counted = self.numbers.iter().map(|(&step, &number)| (step, distance(number)));
            let below = counted.clone().rfind(|(_, off)| *off > 0.0);
            let above = counted.clone().find(|(_, off)| *off <= 0.0);
            let (lowest, highest) =
                (below.map_or(0, |found| found.0), above.map_or(LAST_STEP, |found| found.0));
            // A step that leaves nothing says nothing of how far away it is.
            let above = above.filter(|(step, _)| self.numbers[step] > 0);
            if highest - lowest <= 1 {
                return Ok(highest);
            }
            let near = [below, above].into_iter().flatten().find(|(_, off)| off.abs() < near_enough);
            if let Some((step, _)) = near {
                return Ok(step);
            }
            let guess = match (below, above) {
                // Should interpolation come closer too slowly.
                _ if attempt % 4 == 0 => (lowest + highest) as f64 / 2.0,
                (Some((low, more)), Some((high, fewer))) => {
                    low as f64 + (high - low) as f64 * more / (more - fewer)
                }
                (Some((step, off)), None) | (None, Some((step, off))) => {
                    // If it isn't reached, further each time.
                    one_sided += 1;
                    step as f64 + f64::from(one_sided) * off / LOSS_PER_STEP
                }
                (None, None) => FIRST_STEP as f64,
            };
            let guess = (guess.ceil() as usize).clamp(lowest + 1, highest - 1);
            let nearest = [below, above].into_iter().flatten().map(|(step, _)| step.abs_diff(guess)).min();
            if self.sizes.known.len() > 1 && nearest.is_some_and(|steps| steps <= INTERPOLATED) {
                return Ok(guess);
            }
            self.ngrams(guess)?;
        }
        Ok(LAST_STEP)
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
        self.ngrams(step)?;
        let file = self.candidates.file(threshold(step))?;
        Ok(self.note(step, file))
    }

    /// Takes down what file a step's counted n-grams have; returns whether it fits.
    fn note(&mut self, step: usize, file: Option<Vec<u8>>) -> bool {
        let mut fits = false;
        match file {
            Some(file) => {
                self.sizes.add(self.numbers[&step] as f64, file.len() as f64, self.max_bytes as f64);
                fits = file.len() <= self.max_bytes;
                if fits && self.best.as_ref().is_none_or(|best| step < best.0) {
                    self.best = Some((step, file));
                }
            }
            None => self.all_held = false,
        }
        self.made.insert(step, fits);
        fits
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
    /// At least as many n-grams as any file has.
    most: f64,
    /// Whether the budget is so small that only concavity is relied on.
    small: bool,
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
            (None, [next, ..]) => next.0 * (-off(next) / GROWTH).exp(),
            (None, []) => {
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

    /// The least and the most bytes that a file of `ngrams` n-grams can have.
    fn bounds(&self, ngrams: f64) -> (f64, f64) {
        let at = self.known.partition_point(|known| known.0 < ngrams);
        if let Some(known) = self.known.get(at).filter(|known| known.0 == ngrams) {
            return with_doubt(known.1, known.1);
        }
        let (below, above) = self.known.split_at(at);
        // A concave function lies above its chord, and below the chord's extensions.
        let (least, mut most) = match (below.last(), above.first()) {
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
        let (least, most) = match self.grown(ngrams) {
            Some((grown_least, grown_most)) => (f64::max(least, grown_least), f64::min(most, grown_most)),
            None => (least, most),
        };
        with_doubt(least, most)
    }

    /// The same, but from how sizes grow near the next file in either direction: with a power of the number of n-grams
    /// that changes little from one file to the next. None where nothing is known of that.
    fn grown(&self, ngrams: f64) -> Option<(f64, f64)> {
        let (empty, files) = self.known.split_first().filter(|_| !self.small)?;
        let off = |known: &(f64, f64)| (ngrams / known.0).ln();
        let nearest = files.iter().min_by(|a, b| off(a).abs().total_cmp(&off(b).abs()))?;
        let bytes = nearest.1 - empty.1;
        // Files that are nearer to each other differ by chance, too.
        let others = files.iter().filter(|other| off(other) - off(nearest) != 0.0);
        let others = others.filter(|other| (off(other) - off(nearest)).abs() > LEAST_DISTANCE);
        let other = others.min_by(|a, b| off(a).abs().total_cmp(&off(b).abs()));
        let (growth, spread) = match other {
            Some(other) => {
                let distance = off(nearest) - off(other);
                let growth = ((other.1 - empty.1) / bytes).ln() / distance;
                (growth, SPREAD + SPREAD_PER_NEPER * distance.abs())
            }
            None => (GROWTH, SPREAD_OF_GROWTH),
        };
        if growth < LEAST_GROWTH {
            return None;
        }
        // Nearly everything may take more bytes than everything, so what is far away and more than half isn't known.
        let reached = if off(nearest) < LOCAL { ngrams } else { ngrams.min(self.most / 2.0).max(nearest.0) };
        let distance = (reached / nearest.0).ln();
        let spread = (spread + SPREAD_PER_NEPER * distance.abs()).min(MOST_SPREAD);
        let one = bytes * ((growth - spread) * distance).exp();
        let other = bytes * ((growth + spread) * distance).exp();
        let (mut least, mut most) = (f64::min(one, other), f64::max(one, other));
        if reached != ngrams {
            (least, most) = (least * LEAST_OF_EVERYTHING, f64::INFINITY);
        }
        Some((empty.1 + least, empty.1 + most))
    }
}

/// Growth is measured between files whose numbers of n-grams differ by more nepers.
const LEAST_DISTANCE: f64 = 0.02;

/// Where sizes grow more slowly, nearly everything is kept, and growth changes fast.
const LEAST_GROWTH: f64 = 0.5;

/// How far growth may be from what was measured: next to it, and per neper of distance; and if nothing was measured.
const SPREAD: f64 = 0.08;
const SPREAD_PER_NEPER: f64 = 0.3;
const SPREAD_OF_GROWTH: f64 = 0.2;
const MOST_SPREAD: f64 = 0.45;

/// Up to how many nepers the growth that was measured is good for any file.
const LOCAL: f64 = 0.1;

/// How large a file of everything is at least, relatively to one of half of it.
const LEAST_OF_EVERYTHING: f64 = 0.8;

fn with_doubt(least: f64, most: f64) -> (f64, f64) {
    (least * (1.0 - DOUBT) - DOUBT_BYTES, most * (1.0 + DOUBT) + DOUBT_BYTES)
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
        counted: usize,
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
        fn most_ngrams(&self) -> usize {
            self.all as usize
        }

        fn empty(&mut self) -> Result<Option<Vec<u8>>> {
            self.file(threshold(LAST_STEP))
        }

        fn ngrams(&mut self, threshold: f64) -> Result<usize> {
            self.counted += 1;
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
        if corpus.all.floor() * BITS_OF_EVERYTHING <= 8.0 * max_bytes as f64 && fits(0) {
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
            let mut corpus = Corpus { all: 10f64.powf(all), jitter, seed, made: 0, counted: 0 };
            let max_bytes = (700.0 + share * 0.5 * corpus.all) as usize;
            let found = search(&mut corpus, max_bytes).unwrap();
            let expected = bisected(&corpus, max_bytes).map(|step| corpus.bytes(threshold(step)));
            prop_assert_eq!(found.map(|file| file.len()), expected);
            // Small ones take no time.
            // Bisection takes thirteen.
            prop_assert!(corpus.made <= PATIENCE + 13, "{} files", corpus.made);
            // Of nearly everything, where sizes fall, more files are made than elsewhere.
            if max_bytes >= SMALL && 4 * max_bytes < corpus.all as usize {
                prop_assert!(corpus.made <= PATIENCE, "{} files", corpus.made);
                prop_assert!(corpus.counted <= 20, "{} times counted", corpus.counted);
            }
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
        fn most_ngrams(&self) -> usize {
            10 * self.bytes.len()
        }

        fn empty(&mut self) -> Result<Option<Vec<u8>>> {
            self.file(threshold(LAST_STEP))
        }

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
