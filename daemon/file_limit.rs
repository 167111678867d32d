//! Raises the limit on open files, and limits the interfaces' connections to a part of it.
//!
//! A process without a free descriptor cannot reach a camera, and libraries that it loads may end
//! it.

use crate::config::Listen;

/// The requested limit, equal to that of the systemd unit.
const REQUESTED: u64 = 65_536;

/// Raises the limit on open files as far as the system allows and returns it. Most systems start a
/// process with 1,024.
pub fn raise() -> u64 {
    rlimit::increase_nofile_limit(REQUESTED).unwrap_or_else(|error| {
        tracing::warn!("cannot raise the limit on open files: {error}");
        rlimit::Resource::NOFILE.get_soft().unwrap_or(1024)
    })
}

/// Limits the interfaces' connections: together to half of the files (at least two), and each to
/// what is configured.
pub fn limit_connections(files: u64, interfaces: [Option<Listen>; 2]) -> [Option<Listen>; 2] {
    let wanted: u64 = interfaces.iter().flatten().map(|listen| listen.connections as u64).sum();
    let most = (files / 2).max(2);
    if wanted <= most {
        return interfaces;
    }
    tracing::warn!(
        "the limit on open files is {files} (ulimit -n): grpc.connections and http.connections \
         allow {wanted} connections together, the daemon accepts {most}"
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
        Some(Listen { addr: ([127, 0, 0, 1], 1).into(), connections, tls: false, lacks: None })
    }

    fn limited(files: u64, interfaces: [Option<Listen>; 2]) -> [usize; 2] {
        limit_connections(files, interfaces)
            .map(|interface| interface.map_or(0, |listen| listen.connections))
    }

    #[test]
    fn connections_take_at_most_half_of_the_files() {
        assert_eq!(limited(1024, [listen(256), listen(64)]), [256, 64]);
        assert_eq!(limited(320, [listen(256), listen(64)]), [128, 32]);
        assert_eq!(limited(320, [None, listen(64)]), [0, 64]);
        assert_eq!(limited(8, [listen(16_384), listen(1)]), [3, 1]);
    }
}
