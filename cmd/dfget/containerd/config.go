package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"golang.org/x/sys/unix"
)

// Process is the containerd behind a socket.
type Process struct {
	PID    int
	Config string // its configuration file
}

// Process finds out which process listens on the socket, and what it was started with.
func (c *Client) Process(ctx context.Context) (Process, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.socket)
	if err != nil {
		return Process{}, err
	}
	defer func() { _ = conn.Close() }() // nothing was said
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return Process{}, err
	}
	var cred *unix.Ucred
	var asked error
	if err := errors.Join(raw.Control(func(fd uintptr) {
		cred, asked = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}), asked); err != nil {
		return Process{}, err
	}
	p := Process{PID: int(cred.Pid), Config: "/etc/containerd/config.toml"}
	line, err := os.ReadFile("/proc/" + strconv.Itoa(p.PID) + "/cmdline")
	if err != nil {
		return Process{}, fmt.Errorf("containerd's process: %w", err)
	}
	p.Config = configOf(strings.Split(strings.TrimRight(string(line), "\x00"), "\x00"), p.Config)
	return p, nil
}

// configOf returns the configuration file that a command line names.
func configOf(args []string, usual string) string {
	for i, a := range args {
		if name, value, ok := strings.Cut(a, "="); ok && slices.Contains([]string{"--config", "-config", "-c"}, name) {
			return value
		}
		if i+1 < len(args) && slices.Contains([]string{"--config", "-config", "-c"}, a) {
			return args[i+1]
		}
	}
	return usual
}

// Changed returns when the file was last changed, if that was after the process was
// started.
func (p Process) Changed() (time.Time, bool) {
	file, err1 := os.Stat(p.Config)
	started, err2 := p.started()
	if err1 != nil || err2 != nil || !file.ModTime().After(started) {
		return time.Time{}, false
	}
	return file.ModTime(), true
}

// tick is the unit of times in /proc, on all machines that Go knows.
const tick = time.Second / 100

// started returns when the process was, at most a tick too late. The kernel counts from
// its own start; the time of the folder in /proc is that of a first look at it.
func (p Process) started() (time.Time, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(p.PID) + "/stat")
	if err != nil {
		return time.Time{}, err
	}
	const at = 22 - 3 // fields after the name, which may hold anything
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) <= at {
		return time.Time{}, fmt.Errorf("/proc/%d/stat has too few fields", p.PID)
	}
	ticks, err := strconv.ParseInt(fields[at], 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("/proc/%d/stat: %w", p.PID, err)
	}
	var running unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &running); err != nil {
		return time.Time{}, err
	}
	return time.Now().Add(time.Duration(ticks+1)*tick - time.Duration(running.Nano())), nil
}

// Config is a configuration, with all that its file leaves out.
type Config struct{ tree map[string]any }

// ReadConfig has the program of the process say what its configuration file means.
func (p Process) ReadConfig(ctx context.Context) (Config, error) {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/"+strconv.Itoa(p.PID)+"/exe", "--config", p.Config, "config", "dump")
	var says strings.Builder
	cmd.Stderr = &says
	text, err := cmd.Output()
	if err != nil {
		return Config{}, fmt.Errorf("containerd --config %s config dump: %w: %s", p.Config, err, strings.TrimSpace(says.String()))
	}
	return parseConfig(text)
}

func parseConfig(text []byte) (Config, error) {
	var c Config
	if err := toml.Unmarshal(text, &c.tree); err != nil {
		return Config{}, fmt.Errorf("containerd's configuration: %w", err)
	}
	return c, nil
}

// at returns what is at a path; nil: nothing.
func (c Config) at(path ...string) any {
	var v any = c.tree
	for _, key := range path {
		table, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = table[key]
	}
	return v
}

// text returns a string at a path, "" if there is none.
func (c Config) text(path ...string) string {
	s, _ := c.at(path...).(string)
	return s
}

// yes reports whether true is at a path.
func (c Config) yes(path ...string) bool {
	b, _ := c.at(path...).(bool)
	return b
}
