fn main() {
    let rt = hms_runtime::runtime::Runtime::acquire().unwrap();
    let program = hms_runtime::cli::Program {
        name: "codex-hms".into(),
        version: "0.1.0".into(),
        host_program: std::env::current_exe().unwrap(),
        stdio: [0, 1, 2],
    };
    let code = rt.block_on(hms_runtime::cli::run(
        program,
        std::env::args_os().skip(1).collect(),
        hms_runtime::Cancel::new(),
    ));
    std::process::exit(code);
}
