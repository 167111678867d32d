//! Generates a clip without a file: a coloured scene with moving boxes, always the same for a given
//! seed.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub const WIDTH: u32 = 640;
pub const HEIGHT: u32 = 480;

pub struct Scene {
    ground: [u8; 3],
    boxes: Vec<MovingBox>,
}

/// A moving box. Pairs are horizontal and vertical, in pixels.
struct MovingBox {
    paint: [u8; 3],
    size: [u32; 2],
    /// Position of its upper left corner in frame 0.
    at: [u32; 2],
    /// Movement from one frame to the next.
    step: [u32; 2],
}

impl Scene {
    pub fn new(seed: u64) -> Scene {
        let mut random = StdRng::seed_from_u64(seed);
        let ground = random.random();
        let moving = |_| MovingBox {
            paint: random.random(),
            size: [random.random_range(30..200), random.random_range(30..160)],
            at: [random.random_range(0..WIDTH), random.random_range(0..HEIGHT)],
            step: [random.random_range(0..24), random.random_range(0..16)],
        };
        Scene { ground, boxes: (0..6).map(moving).collect() }
    }

    /// Returns frame `number` as packed BGRx.
    pub fn bgrx(&self, number: usize) -> Vec<u8> {
        let mut bgrx = Vec::with_capacity((WIDTH * HEIGHT * 4) as usize);
        for y in 0..HEIGHT {
            for x in 0..WIDTH {
                let shade = (x * 60 / WIDTH + y * 90 / HEIGHT) as u8;
                let ground = self.ground.map(|part| part.wrapping_add(shade));
                let above = self.boxes.iter().rfind(|moving| moving.covers(number, x, y));
                let [b, g, r] = above.map_or(ground, |moving| moving.paint);
                bgrx.extend([b, g, r, 255]);
            }
        }
        bgrx
    }
}

impl MovingBox {
    /// Returns true if the box covers this pixel. A box that leaves at one edge enters at the
    /// opposite one.
    fn covers(&self, number: usize, x: u32, y: u32) -> bool {
        let inside = |axis: usize, place: u32, length: u32| {
            let from = (self.at[axis] + number as u32 * self.step[axis]) % length;
            (place + length - from) % length < self.size[axis]
        };
        inside(0, x, WIDTH) && inside(1, y, HEIGHT)
    }
}
