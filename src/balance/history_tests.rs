use super::*;
use crate::metrics::{ByProtocol, Histogram};

/// Readings of backends whose replies are counted in these histograms.
struct Scene {
    began: Instant,
    history: History,
    histograms: Vec<Histogram>,
}

impl Scene {
    fn new(backends: usize) -> Self {
        let began = Instant::now();
        let histograms = (0..backends).map(|_| Histogram::default()).collect();
        Self { began, history: History::new(began), histograms }
    }

    fn answer(&self, backend: usize, count: u64, millis: u64) {
        (0..count).for_each(|_| self.histograms[backend].add(Duration::from_millis(millis), 1));
    }

    /// What is read so long after the beginning, of the backends from `first` on; `here` was answered without them.
    fn reading_from(&self, first: usize, seconds: f64, here: u64) -> Reading {
        let backend = |(number, histogram): (u32, &Histogram)| BackendReading {
            id: BackendId::new(number),
            state: ShownState::Up,
            leases: 7,
            counts: BackendCounts {
                requests: ByProtocol { http: 0, resp: histogram.count() },
                ..BackendCounts::default()
            },
            times: histogram.times(),
        };
        let all: Vec<_> = (0..).zip(&self.histograms).map(backend).collect();
        let mut of_backends = BackendTotals::default();
        all.iter().for_each(|reading| of_backends.add(&reading.counts, &reading.times));
        let answered_here = ByProtocol { http: here, resp: 0 };
        Reading {
            at: self.began + Duration::from_secs_f64(seconds),
            counts: Counts { answered_here, ..Counts::default() },
            commands: Vec::new(),
            backends: all.into_iter().skip(first).collect(),
            of_backends,
        }
    }

    fn reading(&self, seconds: f64, here: u64) -> Reading {
        self.reading_from(0, seconds, here)
    }

    fn sample(&self, seconds: f64) {
        self.history.add(self.reading(seconds, 0));
    }

    fn recent(&self, seconds: f64) -> Recent {
        self.history.recent(&self.reading(seconds, 0), 0)
    }
}

/// The requests of each second; `None` where the backend was not there.
fn requests(of: &RecentOfBackend) -> Vec<Option<u64>> {
    of.samples.iter().map(|sample| sample.map(|sample| sample.requests)).collect()
}

#[test]
fn a_sample_is_what_has_changed_and_the_newest_five_make_the_rate() {
    let scene = Scene::new(2);
    scene.answer(0, 1000, 1);
    for second in 0..10_u32 {
        scene.history.add(scene.reading(f64::from(second), u64::from(second) * 2));
        scene.answer(0, 30, 1);
        scene.answer(1, 10, 1);
    }
    let recent = scene.history.recent(&scene.reading(9.5, 20), 0);
    assert_eq!((recent.number, recent.per_second), (9, 42.0));
    let [first, second] = &recent.backends[..] else { panic!("two") };
    assert_eq!((first.per_second, second.per_second), (30.0, 10.0));
    assert_eq!(first.share.map(|share| (share * 1000.0).round()), Some(929.0), "1300 of 1400");
    assert_eq!((first.counts.requests.resp, second.counts.requests.resp), (1300, 100));
    assert_eq!((recent.counts.answered_here.http, second.times.count()), (20, 100));
    let expected = [Some(30); 9];
    assert_eq!(requests(first), expected, "what was before the first reading belongs to no second");
}

#[test]
fn only_what_is_new_is_given_and_no_more_than_five_minutes() {
    let scene = Scene::new(1);
    (0..=400).for_each(|second| scene.sample(f64::from(second)));
    let reading = scene.reading(400.5, 0);
    let samples = |since| scene.history.recent(&reading, since).backends[0].samples.len();
    assert_eq!([samples(0), samples(399), samples(400), samples(9999)], [300, 1, 0, 0]);
}

#[test]
fn the_samples_of_a_backend_that_joined_are_as_many_and_its_first_second_counts() {
    let mut scene = Scene::new(1);
    (0..=10).for_each(|second| scene.sample(f64::from(second)));
    scene.histograms.push(Histogram::default());
    assert_eq!(requests(&scene.recent(10.5).backends[1]), [None; 10], "it is in no sample yet");
    scene.answer(1, 6, 1);
    scene.sample(11.0);
    scene.answer(1, 2, 1);
    scene.sample(12.0);
    let [old, new] = &scene.recent(12.5).backends[..] else { panic!("two") };
    assert_eq!(requests(old), [Some(0); 12]);
    assert_eq!(requests(new)[..10], [None; 10]);
    assert_eq!(requests(new)[10..], [Some(6), Some(2)]);
    assert_eq!(new.per_second, 4.0, "it is there for two seconds");
}

#[test]
fn seconds_without_a_sample_have_their_parts_of_what_was_counted() {
    let scene = Scene::new(1);
    (0..=3).for_each(|second| scene.sample(f64::from(second)));
    scene.answer(0, 10, 1);
    scene.sample(6.9);
    let recent = scene.recent(7.0);
    assert_eq!(recent.number, 7);
    let expected = [0, 0, 0, 2, 3, 2, 3].map(Some);
    assert_eq!(requests(&recent.backends[0]), expected);
    scene.sample(1_000_000.0);
    assert_eq!(scene.recent(1_000_000.0).backends[0].samples.len(), 300);
}

#[test]
fn what_backends_that_are_gone_have_answered_stays_in_the_totals_and_in_the_minute() {
    let scene = Scene::new(2);
    scene.sample(0.0);
    scene.answer(0, 60, 900);
    scene.answer(1, 40, 1);
    scene.sample(1.0);
    let recent = scene.history.recent(&scene.reading_from(1, 1.5, 0), 0);
    assert_eq!(recent.backends.len(), 1);
    assert_eq!(recent.backends[0].share, Some(0.4), "of all that was answered");
    assert_eq!((recent.total_of_backends.requests.resp, recent.per_second), (100, 100.0));
    let in_minute = |recent: &Recent| {
        (recent.counts_of_backends.requests.resp, recent.times_of_backends.count())
    };
    assert_eq!(in_minute(&recent), (100, 100));
    (2..=60).for_each(|second| {
        scene.history.add(scene.reading_from(1, f64::from(second), 0));
    });
    let recent = scene.history.recent(&scene.reading_from(1, 60.9, 0), 0);
    assert_eq!((in_minute(&recent), recent.total_of_backends.requests.resp), ((0, 0), 100));
}

#[test]
fn counts_and_latencies_are_those_of_the_last_minute() {
    let scene = Scene::new(1);
    scene.sample(0.0);
    scene.answer(0, 100, 900);
    let minute = |seconds: f64| {
        let recent = scene.recent(seconds);
        let backend = &recent.backends[0];
        let p99 = backend.times.percentile(0.99).map(|time| time.as_millis() / 100);
        (backend.counts.requests.resp, p99)
    };
    assert_eq!(minute(0.5), (100, Some(9)), "before the first sample as well");
    (1..=59).for_each(|second| scene.sample(f64::from(second)));
    assert_eq!(minute(59.5), (100, Some(9)));
    scene.sample(60.0);
    assert_eq!(minute(60.5), (0, None));
}

#[test]
fn what_comes_before_the_first_reading_is_in_the_minute() {
    let scene = Scene::new(1);
    scene.answer(0, 5, 1);
    let requests = |seconds: f64| {
        let recent = scene.history.recent(&scene.reading(seconds, 3), 0);
        let backend = &recent.backends[0];
        assert_eq!([recent.minute, backend.minute], [Duration::from_secs_f64(seconds); 2]);
        [recent.counts.answered_here.http, backend.counts.requests.resp, backend.times.count()]
    };
    assert_eq!(requests(0.25), [3, 5, 5]);
    scene.history.add(scene.reading(0.5, 3));
    assert_eq!(requests(0.75), [3, 5, 5]);
}

#[test]
fn the_share_of_nothing_is_not_known() {
    assert_eq!(Scene::new(1).recent(0.0).backends[0].share, None);
}
