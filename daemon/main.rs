//! The `lookout` program. Its commands are defined in `cli`.

fn main() -> std::process::ExitCode {
    lookout::cli::main()
}
