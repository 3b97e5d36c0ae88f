package keeper

import (
	"bufio"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	memoryLimit = 24 << 20 // of the Go heap; what is held is in descriptors
	cgroupName  = "dfsnapshotter-keeper"
)

// harden makes the process outlive its daemon, cheaply. A machine may forbid parts of
// it: each of those is a warning, for a keeper that is easier to kill beats none.
func harden(cfg Config) {
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGPIPE)
	runtime.GOMAXPROCS(min(2, runtime.GOMAXPROCS(0)))
	debug.SetGCPercent(25)
	debug.SetMemoryLimit(memoryLimit)
	warn := func(what string, err error) {
		if err != nil {
			cfg.Log.Warn("keeper is less protected than it should be", "what", what, "err", err)
		}
	}
	warn("oom score", os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0))
	warn("locked memory", unix.Mlockall(unix.MCL_CURRENT|unix.MCL_ONFAULT))
	if cfg.Detach {
		warn("session", leaveSession())
		warn("cgroup", leaveCgroup(cfg.Log))
	}
}

func leaveSession() error {
	if sid, err := unix.Getsid(0); err == nil && sid == os.Getpid() {
		return nil
	}
	_, err := unix.Setsid()
	return os.NewSyscallError("setsid", err)
}

// leaveCgroup moves this process out of the daemon's cgroups into groups of its own,
// because stopping the daemon's unit kills all that is in them, and its memory limit
// would count the keeper.
func leaveCgroup(log *slog.Logger) error {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return err
	}
	mounts, err := cgroupMounts()
	if err != nil {
		return err
	}
	var errs []error
	for line := range strings.Lines(string(own)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 || f[2] == "/" || f[2] == "/"+cgroupName {
			continue
		}
		dir, ok := mounts[f[1]]
		if !ok {
			errs = append(errs, fmt.Errorf("cgroup hierarchy %q is not mounted", f[1]))
			continue
		}
		if err := joinCgroup(dir); err != nil {
			errs = append(errs, err)
			continue
		}
		log.Debug("keeper left the daemon's cgroup", "hierarchy", f[1], "was", f[2])
	}
	return errors.Join(errs...)
}

// joinCgroup enters a group of the keeper's own below the hierarchy at dir, or else its
// root: groups of some controllers (cpuset) cannot be joined before they are set up.
func joinCgroup(dir string) error {
	pid := []byte(strconv.Itoa(os.Getpid()))
	group := filepath.Join(dir, cgroupName)
	err := os.Mkdir(group, 0o755)
	if err == nil || errors.Is(err, os.ErrExist) {
		err = os.WriteFile(filepath.Join(group, "cgroup.procs"), pid, 0)
	}
	if err == nil {
		return nil
	}
	if os.WriteFile(filepath.Join(dir, "cgroup.procs"), pid, 0) == nil {
		return nil
	}
	return err
}

// cgroupMounts maps the hierarchies' names, as /proc/self/cgroup writes them, to their mount points.
func cgroupMounts() (map[string]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	mounts := map[string]string{}
	for sc := bufio.NewScanner(f); sc.Scan(); {
		head, tail, ok := strings.Cut(sc.Text(), " - ")
		h, t := strings.Fields(head), strings.Fields(tail)
		if !ok || len(h) < 5 || len(t) < 3 {
			continue
		}
		switch t[0] {
		case "cgroup2":
			mounts[""] = h[4]
		case "cgroup":
			mounts[hierarchy(t[2])] = h[4]
		}
	}
	return mounts, nil
}

// hierarchy picks the controllers out of a cgroup v1 mount's options.
func hierarchy(options string) string {
	var names []string
	for o := range strings.SplitSeq(options, ",") {
		switch o {
		case "rw", "ro", "xattr", "clone_children", "noprefix", "cpuset_v2_mode", "favordynmods":
		default:
			if !strings.HasPrefix(o, "release_agent=") {
				names = append(names, o)
			}
		}
	}
	return strings.Join(names, ",")
}
