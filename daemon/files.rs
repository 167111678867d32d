//! Raises the limit on open files and shares the files among the interfaces.
//!
//! A process without a free descriptor cannot reach a camera, and libraries that it loads may end
//! it.

use crate::config::Listen;

/// The requested limit, equal to that of the systemd unit.
const WANTED: u64 = 65_536;

/// Raises the limit on open files as far as the system allows and returns it. Most systems start a
/// process with 1,024.
pub fn raise_limit() -> u64 {
    rlimit::increase_nofile_limit(WANTED).unwrap_or_else(|error| {
        tracing::warn!("the limit on open files stays as it is: {error}");
        rlimit::Resource::NOFILE.get_soft().unwrap_or(1024)
    })
}

/// Shares the files among the interfaces. Together they take at most half of them (at least two),
/// and each takes at most what is configured.
pub fn share(files: u64, interfaces: [Option<Listen>; 2]) -> [Option<Listen>; 2] {
    let wanted: u64 = interfaces.iter().flatten().map(|listen| listen.connections as u64).sum();
    let most = (files / 2).max(2);
    if wanted <= most {
        return interfaces;
    }
    tracing::warn!(
        "this process may have {files} files open (ulimit -n): of {wanted} connections that \
         grpc.connections and http.connections allow, it takes {most}"
    );
    interfaces.map(|interface| {
        interface.map(|listen| {
            let connections = (listen.connections as u64 * most / wanted).max(1);
            Listen { connections: connections as usize, ..listen }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(connections: usize) -> Option<Listen> {
        Some(Listen { addr: ([127, 0, 0, 1], 1).into(), connections })
    }

    fn shared(files: u64, interfaces: [Option<Listen>; 2]) -> [usize; 2] {
        share(files, interfaces).map(|interface| interface.map_or(0, |listen| listen.connections))
    }

    #[test]
    fn clients_take_half_of_the_files_at_most() {
        assert_eq!(shared(1024, [listen(256), listen(64)]), [256, 64]);
        assert_eq!(shared(320, [listen(256), listen(64)]), [128, 32]);
        assert_eq!(shared(320, [None, listen(64)]), [0, 64]);
        assert_eq!(shared(8, [listen(16_384), listen(1)]), [3, 1]);
    }
}
