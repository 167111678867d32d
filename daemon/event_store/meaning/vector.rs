//! Vectors of 8-bit integers: how they are made, stored and compared.

/// A vector of length 1, as integers with a common scale.
#[derive(Clone, Debug, PartialEq)]
pub struct Vector {
    /// Factor from the integers to the vector's values.
    pub scale: f32,
    pub values: Box<[i8]>,
}

impl Vector {
    /// Rounds the direction of a vector to integers, the greatest of which is 127. The length is 1
    /// again.
    pub fn new(vector: &[f32]) -> Vector {
        let greatest = vector.iter().fold(0.0, |greatest: f32, value| greatest.max(value.abs()));
        let unit = greatest.max(f32::MIN_POSITIVE) / 127.0;
        let values: Box<[i8]> = vector.iter().map(|value| (value / unit).round() as i8).collect();
        let square: f32 = values.iter().map(|value| f32::from(*value).powi(2)).sum();
        Vector { scale: square.max(1.0).sqrt().recip(), values }
    }

    /// Reads the bytes of several vectors, one after the other. Returns none if they are not those
    /// of vectors with this length.
    pub fn read_all(bytes: &[u8], dimensions: usize) -> Vec<Vector> {
        let vectors = bytes.chunks(size_of::<f32>() + dimensions);
        let vectors: Option<_> = vectors.map(|bytes| Vector::read(bytes, dimensions)).collect();
        vectors.unwrap_or_default()
    }

    /// Reads the bytes of [`Vector::bytes`]. Returns `None` if they are not those of a vector with
    /// this length.
    fn read(bytes: &[u8], dimensions: usize) -> Option<Vector> {
        let (scale, values) = bytes.split_first_chunk()?;
        let scale = f32::from_le_bytes(*scale);
        let is_valid = values.len() == dimensions && scale.is_finite();
        let values = values.iter().map(|byte| i8::from_le_bytes([*byte])).collect();
        is_valid.then_some(Vector { scale, values })
    }

    /// Returns the bytes in which a vector is stored: the scale as 32-bit float, then the integers.
    pub fn bytes(&self) -> Vec<u8> {
        let values = self.values.iter().flat_map(|value| value.to_le_bytes());
        self.scale.to_le_bytes().into_iter().chain(values).collect()
    }
}

/// Computes the products of a vector with each row, one after the other in `rows`.
pub fn products(vector: &[i8], rows: &[i8], products: &mut Vec<i32>) {
    products.clear();
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { products_avx2(vector, rows, products) };
    }
    products_of(vector, rows, products);
}

/// The same with wider instructions than every x86-64 has, which the compiler chooses.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn products_avx2(vector: &[i8], rows: &[i8], products: &mut Vec<i32>) {
    products_of(vector, rows, products);
}

#[inline(always)]
fn products_of(vector: &[i8], rows: &[i8], products: &mut Vec<i32>) {
    let product = |row: &[i8]| {
        let pairs = std::iter::zip(vector, row);
        pairs.map(|(a, b)| i32::from(*a) * i32::from(*b)).sum::<i32>()
    };
    products.extend(rows.chunks_exact(vector.len()).map(product));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_changes_similarities_little() {
        let vector = |seed: u32| {
            let values = (0..384).map(|at| ((at * 7919 + seed * 104_729) % 1_000) as f32 - 500.0);
            let values: Vec<f32> = values.collect();
            let length = values.iter().map(|value| value * value).sum::<f32>().sqrt();
            values.iter().map(|value| value / length).collect::<Vec<f32>>()
        };
        for seed in 0..50 {
            let (a, b) = (vector(seed), vector(seed + 1));
            let exact: f32 = std::iter::zip(&a, &b).map(|(a, b)| a * b).sum();
            let (a, b) = (Vector::new(&a), Vector::new(&b));
            let mut found = Vec::new();
            products(&a.values, &b.values, &mut found);
            let rounded = found[0] as f32 * a.scale * b.scale;
            assert!((exact - rounded).abs() < 0.005, "{exact} {rounded}");
        }
    }

    #[test]
    fn a_vector_is_stored_in_a_byte_per_value() {
        let vector = Vector::new(&[0.6, -0.8, 0.0]);
        assert_eq!(*vector.values, [95, -127, 0]);
        assert_eq!(vector.bytes().len(), 7);
        assert_eq!(Vector::read(&vector.bytes(), 3), Some(vector.clone()));
        assert_eq!(Vector::read(&vector.bytes(), 4), None);
        assert_eq!(Vector::read(&[0, 0, 128], 0), None);
        let two = [vector.bytes(), vector.bytes()].concat();
        assert_eq!(Vector::read_all(&two, 3), [vector.clone(), vector]);
        assert_eq!(Vector::read_all(&two[1..], 3), []);
        assert_eq!(Vector::read_all(&[], 3), []);
        assert_eq!(*Vector::new(&[0.0, 0.0]).values, [0, 0]);
    }

    #[test]
    fn products_are_exact() {
        let extremes = [-127, 127, -1, 0, 127, -127, 3].repeat(60);
        let mut found = Vec::new();
        products(&extremes, &extremes.repeat(2), &mut found);
        let exact: i32 = extremes.iter().map(|value| i32::from(*value).pow(2)).sum();
        assert_eq!(found, [exact, exact]);
    }
}
