//! The `lookout` program; what it can do stands in `cli`.

fn main() -> std::process::ExitCode {
    lookout::cli::main()
}
