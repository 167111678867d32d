//! Writes a tensor as a file that `torch.load` reads with `weights_only=True`, as vLLM does.
//!
//! The file is a zip archive without compression: `a/data.pkl` is a pickle (protocol 2) that
//! describes a dense tensor, `a/data/0` has its values, and `a/version` is the format's version. The
//! values are 16-bit floats in little-endian order.

use half::f16;
use half::slice::HalfFloatSliceExt;

/// The earliest date that a zip archive can have, 1 January 1980.
const DATE: u16 = 0x21;

/// Returns the file of a tensor of some rows of `width` numbers, or `None` if one of the numbers is
/// not finite in 16 bits.
pub fn tensor_file(rows: &[f32], width: usize) -> Option<Vec<u8>> {
    let mut halves = vec![f16::ZERO; rows.len()];
    halves.convert_from_f32_slice(rows);
    if halves.iter().any(|value| !value.is_finite()) {
        return None;
    }
    let values: Vec<u8> = halves.iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut archive =
        Archive { bytes: Vec::with_capacity(values.len() + 1024), ..Archive::default() };
    archive.add("a/data.pkl", &description(rows.len() / width, width));
    archive.add("a/data/0", &values);
    archive.add("a/version", b"3\n");
    Some(archive.finish())
}

/// Returns the pickle that describes a tensor `[rows, width]`:
/// `_rebuild_tensor_v2(storage, 0, (rows, width), (width, 1), False, OrderedDict())`.
fn description(rows: usize, width: usize) -> Vec<u8> {
    [
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((".as_slice(),
        &text("storage"),
        b"ctorch\nHalfStorage\n",
        &text("0"),
        &text("cpu"),
        &integer(rows * width),
        b"tQ",
        &integer(0),
        &integer(rows),
        &integer(width),
        b"\x86",
        &integer(width),
        &integer(1),
        b"\x86\x89ccollections\nOrderedDict\n)RtR.",
    ]
    .concat()
}

/// Returns the pickle of a text.
fn text(text: &str) -> Vec<u8> {
    [b"X".as_slice(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

/// Returns the pickle of a number below 2³¹.
fn integer(value: usize) -> Vec<u8> {
    if let Ok(byte) = u8::try_from(value) {
        return vec![b'K', byte];
    }
    match u16::try_from(value) {
        Ok(short) => [b"M".as_slice(), &short.to_le_bytes()].concat(),
        Err(_) => [b"J".as_slice(), &(value as u32).to_le_bytes()].concat(),
    }
}

/// A zip archive whose files are stored without compression.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    /// The entries of the directory at the archive's end.
    directory: Vec<u8>,
    files: u16,
}

impl Archive {
    fn add(&mut self, name: &str, content: &[u8]) {
        let offset = self.bytes.len() as u32;
        let size = (content.len() as u32).to_le_bytes();
        // Version 2.0, no flags, stored, time 0.
        let common = [
            [20, 0, 0, 0, 0, 0, 0, 0].as_slice(),
            &DATE.to_le_bytes(),
            &crc32fast::hash(content).to_le_bytes(),
            &size,
            &size,
            &(name.len() as u16).to_le_bytes(),
            &[0; 2],
        ]
        .concat();
        for part in [b"PK\x03\x04".as_slice(), &common, name.as_bytes(), content] {
            self.bytes.extend_from_slice(part);
        }
        // No comment, disk 0, no attributes.
        for part in [
            b"PK\x01\x02\x14\x00".as_slice(),
            &common,
            &[0; 10],
            &offset.to_le_bytes(),
            name.as_bytes(),
        ] {
            self.directory.extend_from_slice(part);
        }
        self.files += 1;
    }

    fn finish(mut self) -> Vec<u8> {
        let files = self.files.to_le_bytes();
        let offset = (self.bytes.len() as u32).to_le_bytes();
        let size = (self.directory.len() as u32).to_le_bytes();
        self.bytes.append(&mut self.directory);
        for part in [b"PK\x05\x06\0\0\0\0".as_slice(), &files, &files, &size, &offset, &[0; 2]] {
            self.bytes.extend_from_slice(part);
        }
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;

    /// Reads the tensor with PyTorch. Its environment is that of `make export-env`.
    fn loaded_by_torch(file: &Path) -> Vec<f32> {
        let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/export-env/bin/python");
        assert!(python.exists(), "{} is missing: run `make export-env`", python.display());
        let program = "import sys, torch\n\
                       t = torch.load(sys.argv[1], weights_only=True)\n\
                       assert t.dtype == torch.float16, t.dtype\n\
                       print(*t.shape, *t.float().flatten().tolist())";
        let output = Command::new(python).args(["-c", program]).arg(file).output().expect("python");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        let text = String::from_utf8(output.stdout).expect("text");
        text.split_whitespace().map(|number| number.parse().expect("a number")).collect()
    }

    #[test]
    fn pytorch_reads_the_file() {
        // The numbers of values take one, two and four bytes in the pickle.
        for (rows, width) in [(1, 2), (3, 160), (300, 300)] {
            let values = (0..rows * width).map(|at| (at % 2000) as f32 / 8.0 - 100.0);
            let values: Vec<f32> = values.collect();
            let folder = tempfile::tempdir().expect("a folder");
            let file = folder.path().join("rows.pt");
            std::fs::write(&file, tensor_file(&values, width).expect("finite")).expect("written");
            let loaded = loaded_by_torch(&file);
            assert_eq!(loaded[..2], [rows as f32, width as f32]);
            let halves: Vec<f32> = values.iter().map(|v| f16::from_f32(*v).to_f32()).collect();
            assert!(loaded[2..] == halves, "{rows} x {width}");
        }
    }

    #[test]
    fn a_number_that_is_not_finite_is_refused() {
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e6] {
            assert_eq!(tensor_file(&[1.0, wrong], 2), None, "{wrong}");
        }
        assert!(tensor_file(&[1.0, 65504.0], 2).is_some());
    }
}
