//! The flags that say how to connect to the daemon.

use std::path::PathBuf;

use clap::Args;

use crate::client;

/// The daemon's gRPC server.
#[derive(Args)]
pub struct Server {
    /// Address of the daemon's gRPC server: HOST:PORT, or https://HOST:PORT if it uses TLS.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:50051", env = "LOOKOUT_SERVER")]
    server: String,
    #[command(flatten)]
    tls: Tls,
    #[command(flatten)]
    token: Token,
}

/// The token of the client.
#[derive(Args)]
pub struct Token {
    /// File with the token, if the daemon has access control. Default: the variable LOOKOUT_TOKEN.
    ///
    /// There is no flag for the token itself: other users see the arguments of a command.
    #[arg(long, value_name = "FILE", env = "LOOKOUT_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
}

/// The TLS of the connection.
#[derive(Args)]
pub struct Tls {
    /// PEM file of the authority that signed the daemon's certificate. Default: the system's.
    #[arg(long, value_name = "FILE", env = "LOOKOUT_CA")]
    pub ca: Option<PathBuf>,
    /// PEM file of the client certificate, if the daemon requires one.
    #[arg(long, value_name = "FILE", requires = "key", env = "LOOKOUT_CERT")]
    cert: Option<PathBuf>,
    /// PEM file of the client certificate's key.
    #[arg(long, value_name = "FILE", requires = "cert", env = "LOOKOUT_KEY")]
    key: Option<PathBuf>,
}

impl Tls {
    /// Returns the files of the client certificate and its key.
    pub fn identity(&self) -> Option<[PathBuf; 2]> {
        self.cert.clone().zip(self.key.clone()).map(<[PathBuf; 2]>::from)
    }
}

impl From<&Server> for client::Server {
    fn from(Server { server, tls, token }: &Server) -> client::Server {
        let address = server.clone();
        let token_file = token.token_file.clone();
        client::Server { address, ca_file: tls.ca.clone(), identity: tls.identity(), token_file }
    }
}
