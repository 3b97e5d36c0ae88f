// Package daemonset puts dfsnapshotter onto a machine from a container that has the
// machine's root: a pod of a DaemonSet. What runs there are services of the
// machine, so nothing ends with the pod, and containerd does not depend on one to
// start pods.
package daemonset

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
	"github.com/dfsnapshotter/dfsnapshotter/deploy/systemd"
)

// Config says what goes where.
type Config struct {
	Host     string   // the machine's root folder
	Bin      string   // folder on the machine for programs
	Programs []string // their files here
	Config   string   // dfsnapshotter.toml, here; "" for none
	Token    string   // join token, here; "" for none
	Install  []string // arguments of `dfsnapshotter install`, on the machine; none: it is not called
	Log      *slog.Logger
}

const (
	keeper  = "dfsnapshotter-keeper.service"
	agent   = "dfsnapshotter.service"
	etc     = "/etc/dfsnapshotter"
	unitDir = "/etc/systemd/system"

	// stale is a file that is there from before something of the agent changes until
	// it was started anew: whoever is interrupted in between finds it next time.
	stale = etc + "/.agent-is-to-start-anew"
)

// Put writes what is missing or another version and has the services run. Of
// those that run, only the agent is started anew, and only if something of it has
// changed: the keeper holds the mounts meanwhile.
func (c Config) Put(ctx context.Context) error {
	if err := errors.Join(c.files(), c.units()); err != nil {
		return err
	}
	verb := "start"
	marker := filepath.Join(c.Host, stale)
	if _, err := os.Lstat(marker); err == nil {
		verb = "restart"
		if err := c.systemctl(ctx, "daemon-reload"); err != nil {
			return err
		}
	}
	for _, args := range [][]string{{"enable", "--now", keeper}, {"enable", agent}, {verb, agent}} {
		if err := c.systemctl(ctx, args...); err != nil {
			return err
		}
	}
	if err := os.Remove(marker); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	c.Log.Info("the agent runs on this machine", "done", verb)
	if len(c.Install) == 0 {
		return nil
	}
	return c.run(ctx, append([]string{filepath.Join(c.Bin, "dfsnapshotter"), "install"}, c.Install...)...)
}

// files writes programs and configuration.
func (c Config) files() error {
	for _, p := range c.Programs {
		text, err := os.ReadFile(p)
		if err == nil {
			err = c.change(filepath.Join(c.Bin, filepath.Base(p)), text, 0o755)
		}
		if err != nil {
			return err
		}
	}
	if c.Config != "" {
		text, err := os.ReadFile(c.Config)
		if err == nil {
			err = c.change(etc+"/dfsnapshotter.toml", []byte(services(string(text))), 0o644)
		}
		if err != nil {
			return err
		}
	}
	if c.Token == "" {
		return nil
	}
	text, err := os.ReadFile(c.Token)
	if err != nil || c.has(etc+"/join-token", text) {
		return err
	}
	return c.write(etc+"/join-token", text, 0o600) // the agent reads it when it needs it
}

var serviceHost = regexp.MustCompile(`\$\{[A-Z0-9_]+_SERVICE_HOST\}`)

// services puts in the addresses of Kubernetes' services, as pods have them in
// their environment: the machine itself does not know their names. Any other $ stays.
func services(text string) string {
	return serviceHost.ReplaceAllStringFunc(text, func(name string) string {
		if v := os.Getenv(name[2 : len(name)-1]); v != "" {
			return v
		}
		return name
	})
}

func (c Config) units() error {
	for _, name := range []string{keeper, agent} {
		text, err := systemd.Units.ReadFile(name)
		if err != nil {
			return err
		}
		text = bytes.ReplaceAll(text, []byte("/usr/local/bin/"), []byte(strings.TrimSuffix(c.Bin, "/")+"/"))
		if err := c.change(filepath.Join(unitDir, name), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// change gives a file that the agent knows at its start only another content.
func (c Config) change(path string, text []byte, mode fs.FileMode) error {
	if c.has(path, text) {
		return nil
	}
	if err := daemon.WriteFile(filepath.Join(c.Host, stale), nil, 0o600); err != nil {
		return err
	}
	return c.write(path, text, mode)
}

// has reports whether a file of the machine's has this content.
func (c Config) has(path string, text []byte) bool {
	old, err := os.ReadFile(filepath.Join(c.Host, path))
	return err == nil && bytes.Equal(old, text)
}

func (c Config) write(path string, text []byte, mode fs.FileMode) error {
	c.Log.Info("write", "file", path)
	return daemon.WriteFile(filepath.Join(c.Host, path), text, mode)
}

func (c Config) systemctl(ctx context.Context, args ...string) error {
	return c.run(ctx, append([]string{"systemctl"}, args...)...)
}

// run runs a program of the machine's.
func (c Config) run(ctx context.Context, argv ...string) error {
	const path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	name := argv[0]
	for _, dir := range filepath.SplitList(path) {
		if _, err := os.Stat(filepath.Join(c.Host, dir, argv[0])); err == nil && !filepath.IsAbs(argv[0]) {
			name = filepath.Join(dir, argv[0])
		}
	}
	if !filepath.IsAbs(name) {
		return fmt.Errorf("%s is not on this machine", name)
	}
	cmd := exec.CommandContext(ctx, name, argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: c.Host}
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + path, "HOME=/root", "SYSTEMD_IGNORE_CHROOT=1"}
	out, err := cmd.CombinedOutput()
	if text := strings.TrimSpace(string(out)); text != "" {
		c.Log.Info("ran", "command", strings.Join(argv, " "), "output", text)
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
