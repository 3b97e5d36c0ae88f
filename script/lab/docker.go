package lab

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Docker is a dockerd that takes Docker Hub's images from the host's registry
// mirror. Its containers have the host's network.
type Docker struct {
	*Process

	at     *Host
	socket string
}

// Clients is the folder of programs of Debian that are not installed.
func (l *Lab) Clients() string { return filepath.Join(l.Root, ".tools/clients") }

// ClientEnv is what those programs need to find each other and their libraries.
func (l *Lab) ClientEnv() []string {
	dir := l.Clients()
	return []string{
		"LD_LIBRARY_PATH=" + strings.Join(l.libraries(), ":"),
		"PATH=" + strings.Join([]string{dir + "/usr/bin", dir + "/usr/sbin", filepath.Join(l.Root, ".tools/debian/usr/bin"), l.Tool(""), os.Getenv("PATH")}, ":"),
	}
}

// libraries are the folders of their libraries.
func (l *Lab) libraries() (dirs []string) {
	for _, pattern := range []string{"usr/lib/*-linux-gnu", "lib/*-linux-gnu"} {
		found, _ := filepath.Glob(filepath.Join(l.Clients(), pattern)) // the pattern is good
		dirs = append(dirs, found...)
	}
	return dirs
}

// Docker starts a dockerd, with a containerd of its own. The host's dfsnapshotter
// must have been started: it configures it.
func (h *Host) Docker(ctx context.Context) (*Docker, error) {
	config, err := h.dockerConfig("")
	if err != nil {
		return nil, err
	}
	if err := h.install(ctx, "docker", "--docker-config", config); err != nil {
		return nil, err
	}
	return h.dockerd(ctx, config, "--bridge", "none", "--iptables=false", "--ip6tables=false")
}

// DockerNetworks starts a dockerd that makes networks for its containers, and asks
// a mirror first.
func (h *Host) DockerNetworks(ctx context.Context, mirror string) (*Docker, error) {
	config, err := h.dockerConfig(fmt.Sprintf(`, "registry-mirrors": ["http://%s"]`, mirror))
	if err != nil {
		return nil, err
	}
	return h.dockerd(ctx, config)
}

// dockerConfig writes daemon.json. more is added to it.
func (h *Host) dockerConfig(more string) (path string, err error) {
	if err := os.MkdirAll(h.Path("docker/cli"), 0o755); err != nil {
		return "", err
	}
	return h.write("docker/daemon.json", fmt.Sprintf(`{"deprecated-key-path": %q%s}`, h.Path("docker/key.json"), more))
}

func (h *Host) dockerd(ctx context.Context, config string, flags ...string) (_ *Docker, err error) {
	dir := h.Path("docker")
	d := &Docker{at: h, socket: filepath.Join(dir, "docker.sock")}
	d.Process, err = h.Start("dockerd", h.lab.ClientEnv(), append([]string{filepath.Join(h.lab.Clients(), "usr/sbin/dockerd"),
		"--config-file", config, "--data-root", filepath.Join(dir, "root"), "--exec-root", filepath.Join(dir, "state"),
		"--pidfile", filepath.Join(dir, "pid"), "--host", "unix://" + d.socket}, flags...)...)
	if err != nil {
		return nil, err
	}
	return d, d.ready(ctx, 60*time.Second, func() error {
		_, err := d.CLI(ctx, "version")
		return err
	})
}

// Host is what programs that are Docker's clients have in DOCKER_HOST.
func (d *Docker) Host() string { return "unix://" + d.socket }

// install has the host's dfsnapshotter configure a runtime.
func (h *Host) install(ctx context.Context, args ...string) error {
	program, err := h.lab.binary(ctx, "dfsnapshotter")
	if err != nil {
		return err
	}
	args = append([]string{program, "install", "--write", "--config", h.Path("df.toml"), "--state", h.Path("installed")}, args...)
	_, err = h.Run(ctx, nil, args...)
	return err
}

// CLI runs docker and returns what it prints.
func (d *Docker) CLI(ctx context.Context, args ...string) (string, error) {
	cli := filepath.Join(d.at.lab.Clients(), "usr/bin/docker")
	return d.at.Run(ctx, []string{"DOCKER_CONFIG=" + d.at.Path("docker/cli")}, append([]string{cli, "--host", "unix://" + d.socket}, args...)...)
}

// Login makes docker log in to Docker Hub as "name:password", or with "" not at
// all, without asking whether that is right.
func (d *Docker) Login(user string) error {
	text := "{}"
	if user != "" {
		text = fmt.Sprintf(`{"auths": {"https://index.docker.io/v1/": {"auth": %q}}}`, base64.StdEncoding.EncodeToString([]byte(user)))
	}
	_, err := d.at.write("docker/cli/config.json", text)
	return err
}

// Run runs a program of the host's and returns what it prints. It finds Debian's
// clients.
func (h *Host) Run(ctx context.Context, env []string, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(append(os.Environ(), h.lab.ClientEnv()...), env...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := h.within(cmd.Start); err != nil {
		return "", err
	}
	if err := cmd.Wait(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}
