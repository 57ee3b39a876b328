//! What a wrapped server is called, and its command line as others may see it.
//!
//! The name comes from what is started: for `npx -y @scope/server-files /data` that is `server-files`, not `npx`.
//! The command line is shown without what looks like a secret: those of MCP servers often carry tokens.

/// Programs that start another one: what their first plain argument names is the server.
const LAUNCHERS: [&str; 14] = [
    "npx", "bunx", "pnpx", "uvx", "pipx", "node", "bun", "deno", "python", "python3", "uv", "docker",
    "podman", "env",
];

/// Words between a launcher and what it starts.
const VERBS: [&str; 6] = ["run", "exec", "dlx", "tool", "x", "start"];

/// Options of launchers whose value is the next word, and none of these names the server.
const VALUED: [&str; 12] = [
    "--from",
    "--with",
    "--package",
    "-p",
    "--directory",
    "--project",
    "--name",
    "-e",
    "--env",
    "-v",
    "--volume",
    "--network",
];

/// File names that say nothing: the folder above them does.
const NAMELESS: [&str; 8] = ["index", "main", "server", "dist", "build", "src", "bin", "__main__"];

/// No name is longer; an agent's may have 63 characters, with its prefix and a number behind.
const LONGEST: usize = 48;

/// What stands for a secret.
const HIDDEN: &str = "(hidden)";

/// A name for the server that `command` starts: lower-case letters, digits, `-`, `_` and `.`; never empty.
pub(crate) fn name_of(command: &[String]) -> String {
    let program = command.first().map_or("", |word| last_part(word));
    let name = if LAUNCHERS.contains(&bare_launcher(program)) { started(&command[1..]) } else { None };
    clean(&name.unwrap_or_else(|| named_by_path(command.first().map_or("", String::as_str))))
}

/// Makes a name of any text: what does not fit becomes `-`.
pub(crate) fn clean(text: &str) -> String {
    let mut name = String::new();
    for c in text.chars().map(|c| c.to_ascii_lowercase()) {
        if c.is_ascii_alphanumeric() || matches!(c, '_' | '.') {
            name.push(c);
        } else if !name.ends_with('-') && !name.is_empty() {
            name.push('-');
        }
        if name.len() == LONGEST {
            break;
        }
    }
    let name = name.trim_matches(['-', '.']).to_owned();
    if name.is_empty() { "server".into() } else { name }
}

/// `python3.12` is `python3`.
fn bare_launcher(program: &str) -> &str {
    program.split_once('.').map_or(program, |(name, _)| name)
}

/// What a launcher starts.
fn started(args: &[String]) -> Option<String> {
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if arg == "-m" {
            return args.next().cloned();
        }
        let assigns = arg.contains('=') && !arg.contains('/');
        if VALUED.contains(&arg.as_str()) {
            args.next();
        } else if !arg.starts_with('-') && !VERBS.contains(&arg.as_str()) && !assigns {
            return Some(named_by_path(without_version(arg)));
        }
    }
    None
}

/// `@scope/name@1.2` and `name@latest` without what is behind the last `@`.
fn without_version(package: &str) -> &str {
    match package.rfind('@') {
        Some(at) if at > 0 && !package[at..].contains('/') => &package[..at],
        _ => package,
    }
}

/// The last part of a path that says something, without its ending.
fn named_by_path(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let stem = |part: &str| {
        let scripts = [".js", ".mjs", ".cjs", ".ts", ".py", ".sh", ".exe"];
        scripts.iter().find_map(|end| part.strip_suffix(end)).unwrap_or(part).to_owned()
    };
    let names = parts.iter().rev().map(|part| stem(part));
    names
        .clone()
        .find(|name| !NAMELESS.contains(&name.as_str()))
        .or_else(|| names.clone().next())
        .unwrap_or_default()
}

fn last_part(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The command line with what looks like a secret replaced.
pub(crate) fn redacted(command: &[String]) -> Vec<String> {
    let mut hide_next = false;
    command
        .iter()
        .map(|word| {
            if std::mem::take(&mut hide_next) && !word.starts_with("--") {
                return HIDDEN.to_owned();
            }
            if let Some((key, _)) = word.split_once('=')
                && !key.contains("://")
                && is_secret(key)
            {
                return format!("{key}={HIDDEN}");
            }
            // `Authorization: Bearer …`, as a header's option has it.
            if let Some((key, _)) = word.split_once(':')
                && !word.contains("://")
                && is_secret(key)
            {
                return format!("{key}: {HIDDEN}");
            }
            hide_next = word.starts_with('-') && is_secret(word);
            without_credentials(word)
        })
        .collect()
}

/// Whether a value of this name is better not shown.
fn is_secret(key: &str) -> bool {
    let key: String =
        key.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    let telling = [
        "token",
        "secret",
        "password",
        "passwd",
        "apikey",
        "accesskey",
        "privatekey",
        "credential",
        "authorization",
        "bearer",
    ];
    telling.iter().any(|word| key.contains(word))
        || matches!(key.as_str(), "auth" | "pass" | "pwd" | "key" | "pat")
}

/// `scheme://user:password@host` without the user and the password; a query's secrets go too.
fn without_credentials(word: &str) -> String {
    let Some((scheme, rest)) = word.split_once("://") else { return word.to_owned() };
    let (place, query) = rest.split_once('?').map_or((rest, None), |(place, query)| (place, Some(query)));
    let (host, path) = place.split_once('/').map_or((place, None), |(host, path)| (host, Some(path)));
    let mut shown = format!("{scheme}://");
    match host.rsplit_once('@') {
        Some((_, host)) => shown.push_str(&format!("{HIDDEN}@{host}")),
        None => shown.push_str(host),
    }
    if let Some(path) = path {
        shown.push('/');
        shown.push_str(path);
    }
    if let Some(query) = query {
        let hide = |pair: &str| match pair.split_once('=') {
            Some((key, _)) if is_secret(key) => format!("{key}={HIDDEN}"),
            _ => pair.to_owned(),
        };
        shown.push('?');
        shown.push_str(&query.split('&').map(hide).collect::<Vec<_>>().join("&"));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn a_server_is_called_by_what_is_started() {
        for (line, name) in [
            ("npx -y @modelcontextprotocol/server-filesystem /data", "server-filesystem"),
            ("npx -y --package foo server-x@latest", "server-x"),
            ("/usr/bin/uvx mcp-server-git@1.2 --repository /x", "mcp-server-git"),
            ("uv run --directory /srv/weather weather.py", "weather"),
            ("python3.12 -u -m my.Server", "my.server"),
            ("node /home/x/Figma_Files/dist/index.js --stdio", "figma_files"),
            ("docker run -i --rm -e TOKEN=abc ghcr.io/github/github-mcp-server", "github-mcp-server"),
            ("env A=b ./tools/Search", "search"),
            ("/opt/my server!", "my"),
            ("npx", "npx"),
            ("…", "server"),
        ] {
            assert_eq!(name_of(&words(line)), name, "{line}");
        }
        assert_eq!(name_of(&[]), "server");
        assert!(name_of(&["x".repeat(200)]).len() <= LONGEST);
    }

    #[test]
    fn secrets_are_not_shown() {
        for (line, shown) in [
            ("srv --api-key sk-1 --port 3", "srv --api-key (hidden) --port 3"),
            ("srv --token=abc -v", "srv --token=(hidden) -v"),
            ("docker run -e GITHUB_TOKEN=abc img", "docker run -e GITHUB_TOKEN=(hidden) img"),
            ("srv postgres://me:pw@db:5432/x?sslmode=on", "srv postgres://(hidden)@db:5432/x?sslmode=on"),
            ("srv https://h/mcp?api_key=1&a=2", "srv https://h/mcp?api_key=(hidden)&a=2"),
            ("srv --token --verbose", "srv --token --verbose"),
            ("npx -y @scope/pkg@1 /data", "npx -y @scope/pkg@1 /data"),
        ] {
            assert_eq!(redacted(&words(line)).join(" "), shown);
        }
        let header = ["srv".to_owned(), "--header".into(), "Authorization: Bearer abc".into()];
        assert_eq!(redacted(&header)[2], "Authorization: (hidden)");
    }
}
