//! Privacy masks: the parts of a camera's frames that are black, and when.
//!
//! Guarantees: every pixel that a mask covers or touches is black while its schedule is in force.
//! Wherever the time is in doubt, the mask is in force: near the ends of its schedule, after a step
//! of the host's clock, and while that clock has not been set.

mod image;
mod polygon;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::frame::{CLOCK_STEP, difference};
use crate::run_clock::Moment;
use crate::schedule::Schedule;
use image::ImageMask;
use polygon::Polygon;

/// Bytes of a pixel, BGRx.
const PIXEL: usize = 4;

/// Maximum number of masks of a camera.
pub const MASKS: usize = 64;

/// Time before and after a schedule for which its mask is in force too. Frames are dated within
/// [`CLOCK_STEP`].
const MARGIN: Duration = Duration::from_secs(2);

/// Time for which all masks are in force after a step of the host's clock.
const AFTER_STEP: Duration = Duration::from_secs(10);

/// The start of 2024. A host whose clock is before it has not been set since it was switched on.
const CLOCK_IS_SET: Duration = Duration::from_secs(1_704_067_200);

/// A part of the frames, and the times at which it is black.
#[derive(Clone, Debug, PartialEq)]
pub struct Mask {
    shape: Shape,
    schedule: Schedule,
}

#[derive(Clone, Debug, PartialEq)]
enum Shape {
    Polygon(Polygon),
    Image(Arc<ImageMask>),
}

impl Mask {
    /// Makes a mask of corners, which are fractions of a frame's width and height from the top
    /// left. Returns the reason as text if they are not those of a polygon.
    pub fn polygon(corners: Vec<[f64; 2]>, schedule: Schedule) -> Result<Mask, String> {
        Ok(Mask { shape: Shape::Polygon(Polygon::new(corners)?), schedule })
    }

    /// Reads a mask from a PNG, of which everything is black but its white pixels. Returns the
    /// reason as text if it cannot be read.
    pub fn image(file: &Path, schedule: Schedule) -> Result<Mask, String> {
        Ok(Mask { shape: Shape::Image(Arc::new(ImageMask::read(file)?)), schedule })
    }

    pub fn has_schedule(&self) -> bool {
        !self.schedule.is_always()
    }

    /// Returns the pixels of a frame of this size that are black, row by row.
    fn pixels(&self, width: usize, height: usize) -> Vec<Range<usize>> {
        match &self.shape {
            Shape::Polygon(polygon) => polygon.pixels(width, height),
            Shape::Image(image) => image.pixels(width, height),
        }
    }

    /// Returns true if the mask is not in force at a time, and not close to it.
    fn is_off(&self, time: SystemTime) -> bool {
        let is_set = time >= SystemTime::UNIX_EPOCH + CLOCK_IS_SET;
        // A period has at least a minute, so none lies between these times.
        let near = [Some(time), time.checked_sub(MARGIN), time.checked_add(MARGIN)];
        is_set && near.iter().all(|time| time.is_some_and(|time| !self.schedule.contains(time)))
    }
}

/// Returns the share of a frame that masks hide while all are in force, 0 to 1.
pub fn share(masks: &[Mask], width: usize, height: usize) -> f64 {
    let mut is_hidden = vec![false; width * height];
    for pixels in masks.iter().flat_map(|mask| mask.pixels(width, height)) {
        is_hidden[pixels].fill(true);
    }
    let hidden = is_hidden.iter().filter(|hidden| **hidden).count();
    hidden as f64 / is_hidden.len().max(1) as f64
}

/// Paints the masks of a camera over its frames.
pub struct Painter {
    masks: Vec<Mask>,
    /// Width and height of the newest frame, and the pixels of each mask at that size.
    size: (usize, usize),
    pixels: Vec<Vec<Range<usize>>>,
    /// The host's clock at the newest frame.
    clock: Option<Moment>,
    /// Time of the run until which all masks are in force.
    all_until: Duration,
}

impl Painter {
    pub fn new(masks: Vec<Mask>) -> Painter {
        Painter { masks, size: (0, 0), pixels: Vec::new(), clock: None, all_until: Duration::ZERO }
    }

    /// Paints over a frame that was captured at a time and arrives now.
    pub fn paint(&mut self, bgrx: &mut [u8], width: usize, captured_at: SystemTime, now: Moment) {
        let height = bgrx.len() / PIXEL / width.max(1);
        if self.size != (width, height) {
            self.size = (width, height);
            self.pixels = self.masks.iter().map(|mask| mask.pixels(width, height)).collect();
        }
        let stepped = self.clock.replace(now).is_some_and(|last| {
            let off = difference(last.utc_at(now.monotonic), now.utc);
            off.unsigned_abs() > CLOCK_STEP.as_nanos()
        });
        if stepped {
            self.all_until = now.monotonic + AFTER_STEP;
        }
        let all = now.monotonic < self.all_until;
        for (mask, pixels) in self.masks.iter().zip(&self.pixels) {
            if !all && mask.is_off(captured_at) && mask.is_off(now.utc) {
                continue;
            }
            for Range { start, end } in pixels {
                bgrx[PIXEL * start..PIXEL * end].fill(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Zone;

    fn schedule(text: &str) -> Schedule {
        Schedule::parse(text, Zone::named("UTC").expect("a zone")).expect("a schedule")
    }

    fn whole(schedule: Schedule) -> Mask {
        let corners = vec![[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]];
        Mask::polygon(corners, schedule).expect("a mask")
    }

    fn at(text: &str) -> SystemTime {
        humantime::parse_rfc3339(text).expect("a time")
    }

    const SECONDS: fn(u64) -> Duration = Duration::from_secs;

    /// A camera whose frames take `age` to arrive, with the host's clock.
    struct Camera {
        painter: Painter,
        age: Duration,
        now: Moment,
    }

    impl Camera {
        fn new(mask: Mask, utc: &str) -> Camera {
            let now = Moment { monotonic: Duration::ZERO, utc: at(utc) };
            Camera { painter: Painter::new(vec![mask]), age: Duration::ZERO, now }
        }

        /// Returns true if a frame that arrives after this time is hidden.
        fn hides(&mut self, after: Duration) -> bool {
            self.now = self.now.later(after);
            let mut bgrx = [255; 2 * PIXEL];
            let captured_at = self.now.utc - self.age;
            self.painter.paint(&mut bgrx, 2, captured_at, self.now);
            assert!(bgrx == [0; 2 * PIXEL] || bgrx == [255; 2 * PIXEL], "half a frame is hidden");
            bgrx[0] == 0
        }
    }

    #[test]
    fn a_frame_at_the_ends_of_a_schedule_is_hidden() {
        let half = Duration::from_millis(500);
        for age in [Duration::ZERO, Duration::from_millis(1400), SECONDS(20)] {
            let mut camera = Camera::new(whole(schedule("22:00-22:01")), "2026-03-02T21:59:50Z");
            camera.age = age;
            let near = |time: &Duration| (SECONDS(8)..SECONDS(72)).contains(time);
            for step in 1..300 {
                let time = half * step;
                let captured = time.checked_sub(age);
                let expected = near(&time) || captured.as_ref().is_some_and(near);
                assert_eq!(camera.hides(half), expected, "{age:?}, {time:?}");
            }
        }
    }

    #[test]
    fn a_step_of_the_clock_hides_everything_for_a_while() {
        let mut camera = Camera::new(whole(schedule("22:00-23:00")), "2026-03-02T12:00:00Z");
        assert!((0..5).all(|_| !camera.hides(SECONDS(1))));
        // Both times are outside the schedule.
        camera.now.utc += SECONDS(3600);
        let hidden = (0..20).take_while(|_| camera.hides(SECONDS(1))).count();
        assert_eq!(hidden, 10);
        camera.now.utc -= SECONDS(2);
        assert!(camera.hides(SECONDS(1)));
        // A correction that is not a step.
        let mut camera = Camera::new(whole(schedule("22:00-23:00")), "2026-03-02T12:00:00Z");
        assert!(!camera.hides(SECONDS(1)));
        camera.now.utc += SECONDS(1);
        assert!(!camera.hides(SECONDS(1)));
    }

    #[test]
    fn a_clock_that_was_not_set_hides_everything() {
        let mut camera = Camera::new(whole(schedule("22:00-23:00")), "1970-01-01T12:00:00Z");
        assert!(camera.hides(SECONDS(1)));
        camera.now.utc = at("2026-03-02T12:00:00Z");
        assert!(camera.hides(SECONDS(1)));
        assert!(!camera.hides(SECONDS(11)));
    }

    #[test]
    fn a_mask_without_a_schedule_is_always_in_force() {
        let always = Schedule::always(Zone::of_host());
        let mut camera = Camera::new(whole(always.clone()), "2026-03-02T12:00:00Z");
        assert!((0..100).all(|_| camera.hides(SECONDS(997))));
        assert!(!whole(always).has_schedule() && whole(schedule("Mon")).has_schedule());
    }

    #[test]
    fn a_frame_of_another_size_is_hidden_too() {
        let left = vec![[0.0, 0.0], [0.5, 0.0], [0.5, 1.0], [0.0, 1.0]];
        let mask = Mask::polygon(left, Schedule::always(Zone::of_host())).expect("a mask");
        assert_eq!(share(std::slice::from_ref(&mask), 10, 10), 0.5);
        assert_eq!(share(&[], 10, 10), 0.0);
        let mut painter = Painter::new(vec![mask]);
        let now = Moment { monotonic: Duration::ZERO, utc: at("2026-03-02T12:00:00Z") };
        for (width, height) in [(4, 2), (8, 2), (2, 8), (4, 2)] {
            let mut bgrx = vec![255; PIXEL * width * height];
            painter.paint(&mut bgrx, width, now.utc, now);
            for row in bgrx.chunks(PIXEL * width) {
                let (hidden, visible) = row.split_at(PIXEL * width / 2);
                assert!(hidden.iter().all(|byte| *byte == 0), "{width}x{height}");
                assert!(visible.iter().all(|byte| *byte == 255), "{width}x{height}");
            }
        }
    }
}
