package imagetest

import (
	"archive/tar"
	_ "embed"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const env = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// ldconfig makes the linker's cache, less the one of its own that holds the times
// of this run.
const ldconfig = "ldconfig; rm -f /var/cache/ldconfig/aux-cache"

// base is a Debian as debootstrap's minbase leaves it, or nearly so.
var base = debLayer{
	packages: []string{
		"apt", "base-files", "base-passwd", "bash", "bsdutils", "ca-certificates", "coreutils", "dash", "debianutils",
		"diffutils", "dpkg", "findutils", "grep", "gzip", "hostname", "init-system-helpers", "libc-bin", "login", "mawk",
		"mount", "ncurses-base", "ncurses-bin", "netbase", "passwd", "perl-base", "sed", "sysvinit-utils", "tar", "tzdata",
		"util-linux",
	},
	files: []File{
		Symlink("bin", "usr/bin"), Symlink("sbin", "usr/sbin"), Symlink("lib", "usr/lib"), Symlink("lib64", "usr/lib64"),
		Symlink("usr/bin/sh", "dash"), Symlink("usr/bin/awk", "mawk"),
		Dir("dev", 0o755), Dir("proc", 0o555), Dir("sys", 0o555), Dir("tmp", 0o1777), Dir("run", 0o755), Dir("root", 0o700),
		Regular("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/bash\nwww-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\npostgres:x:101:101::/var/lib/postgresql:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n")),
		Regular("etc/group", 0o644, []byte("root:x:0:\nadm:x:4:\ntty:x:5:\nshadow:x:42:\nwww-data:x:33:\npostgres:x:101:\nnogroup:x:65534:\n")),
		Regular("etc/hostname", 0o644, []byte("image\n")),
	},
	setup: ldconfig,
}

// tools are what an image of a language usually brings along.
var tools = debLayer{packages: []string{"curl", "file", "git", "make", "openssh-client", "xz-utils"}, setup: ldconfig}

// nodeApp answers one HTTP request, its own.
const nodeApp = `const http = require('http')
const server = http.createServer((_, answer) => answer.end('hello')).listen(0, '127.0.0.1', () => {
  http.get({ port: server.address().port }, (answer) => answer.resume().on('end', () => {
    console.log('ready')
    process.exit(0)
  }))
})
`

// postgresApp makes a database and has its server accept a connection.
const postgresApp = `initdb -A trust -N -D /var/lib/postgresql/data >/dev/null
postgres -D /var/lib/postgresql/data -k /tmp -h '' >/dev/null 2>&1 &
until psql -h /tmp -d postgres -c 'select 1' >/dev/null 2>&1; do sleep 0.01; done
echo ready`

// hello is a class of Java's that prints "ready".
//
//go:embed testdata/hello/Hello.class
var hello []byte

// recipes are the images that Debian makes. Each prints "ready" when it is up.
var recipes = map[string]recipe{
	"python": {
		layers: []debLayer{
			base, tools,
			{
				packages: []string{"python3", "python3-pip"},
				setup:    ldconfig + "; python3 -m compileall -q /usr/lib/python3.11 >/dev/null || true",
			},
			{files: []File{Dir("app", 0o755), Regular("app/main.py", 0o644, []byte("import json, ssl, sqlite3, http.server\nprint(\"ready\", flush=True)\n"))}},
		},
		config: ocispec.ImageConfig{Env: []string{env}, Cmd: []string{"python3", "-c", `import json, ssl, sqlite3, http.server; print("ready", flush=True)`}},
	},
	"node": {
		layers: []debLayer{base, {packages: []string{"nodejs"}, setup: ldconfig}, {
			files: []File{Dir("app", 0o755), Regular("app/main.js", 0o644, []byte(nodeApp))},
		}},
		config: ocispec.ImageConfig{Env: []string{env}, Cmd: []string{"node", "/app/main.js"}},
	},
	"openjdk": {
		layers: []debLayer{base, {
			packages: []string{"openjdk-17-jre-headless"},
			setup:    ldconfig + "; ln -s /usr/lib/jvm/java-17-openjdk-*/bin/java /usr/bin/java; for f in /usr/lib/jvm/java-17-openjdk-*/lib/jvm.cfg-default; do cp -n $f /etc/java-17-openjdk/jvm-$(dpkg --print-architecture).cfg; done",
		}, {files: []File{Dir("app", 0o755), Regular("app/Hello.class", 0o644, hello)}}},
		config: ocispec.ImageConfig{Env: []string{env}, Cmd: []string{"java", "-cp", "/app", "Hello"}},
	},
	"postgres": {
		layers: []debLayer{base, {packages: []string{"postgresql-15"}, setup: ldconfig}, {
			files: []File{{Header: dirOf("var/lib/postgresql/data", 0o700, 101)}},
		}},
		config: ocispec.ImageConfig{
			Env: []string{env + ":/usr/lib/postgresql/15/bin", "LC_ALL=C.UTF-8"}, User: "postgres",
			Cmd: []string{"sh", "-ec", postgresApp},
		},
	},
	"gcc": {
		layers: []debLayer{base, tools, {packages: []string{"g++"}, setup: ldconfig}},
		config: ocispec.ImageConfig{Env: []string{env}, Cmd: []string{
			"sh", "-ec", `echo '#include <stdio.h>
int main(void) { puts("ready"); }' >/tmp/a.c; gcc -o /tmp/a /tmp/a.c; exec /tmp/a`,
		}},
	},
	"nginx": {
		layers: []debLayer{base, {packages: []string{"nginx"}, setup: ldconfig}, {
			files: []File{Dir("var/www", 0o755), Dir("var/www/html", 0o755), Regular("var/www/html/index.html", 0o644, []byte("<h1>ready</h1>\n"))},
		}},
		config: ocispec.ImageConfig{Env: []string{env}, Cmd: []string{"sh", "-ec", "nginx -t && echo ready"}},
	},
}

func dirOf(name string, mode int64, uid int) tar.Header {
	h := Dir(name, mode).Header
	h.Uid, h.Gid = uid, uid
	return h
}
