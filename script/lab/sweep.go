package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/moby/sys/mountinfo"
)

// lock marks dir as owned by this process for as long as it lives.
func lock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "owner"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// sweepAbandoned removes labs whose owner was killed.
func sweepAbandoned() {
	dirs, _ := filepath.Glob(prefix + "*")
	for _, dir := range dirs {
		f, err := lock(dir)
		if err != nil {
			continue // in use
		}
		if err := sweep(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		f.Close()
	}
	if err := strayNetworks(); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

// sweep ends all processes of the lab in dir, and removes its mounts, its
// networks and itself.
func sweep(dir string) error {
	removeTasks(dir)
	kill := func() error {
		if pids := processes(dir); len(pids) > 0 {
			for _, pid := range pids {
				_ = syscall.Kill(pid, syscall.SIGKILL) // it may be gone already
			}
			return fmt.Errorf("processes of %s do not end: %v", dir, pids)
		}
		return nil
	}
	err := Eventually(context.Background(), 20*time.Second, kill)
	return errors.Join(err, unmount(dir), removeNetworks(filepath.Base(dir)), os.RemoveAll(dir))
}

// programs are what a lab starts, directly or not, cut to the 15 letters that
// the kernel keeps.
var programs = []string{"containerd", "containerd-shim", "containerd-star", "ctr", "dfget", "dfmanager", "dfscheduler", "dfsnapshotter", "dockerd", "linerate", "nginx", "registry", "runc"}

// processes returns the processes of the lab in dir: its programs, known by
// their arguments, and all that descend from them, as containers do.
//
// It reads the arguments of its own programs only: they lie in a process's
// memory, and one that waits for a page of a dead FUSE mount never lets go of it.
func processes(dir string) []int {
	entries, _ := os.ReadDir("/proc")
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		proc := filepath.Join("/proc", e.Name())
		comm, _ := os.ReadFile(proc + "/comm")
		if !slices.Contains(programs, strings.TrimSpace(string(comm))) {
			continue
		}
		if args, _ := os.ReadFile(proc + "/cmdline"); bytes.Contains(args, []byte(dir+"/")) {
			pids = append(descendants(pid, pids), pid)
		}
	}
	return pids
}

// descendants appends the children of pid and theirs.
func descendants(pid int, to []int) []int {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, t := range tasks {
		children, _ := os.ReadFile(t)
		for _, c := range strings.Fields(string(children)) {
			if child, err := strconv.Atoi(c); err == nil {
				to = append(descendants(child, to), child)
			}
		}
	}
	return to
}

// removeTasks ends the containers of all of the lab's containerds.
func removeTasks(dir string) {
	root, err := os.ReadFile(filepath.Join(dir, "root"))
	if err != nil {
		return // there never was a containerd
	}
	for _, c := range []struct{ ctr, folder string }{
		{".tools/bin/ctr", "c"}, {".tools/bin/ctr", "*/c"},
		{".tools/debian/usr/bin/ctr", "c16"},
	} {
		containerds, _ := filepath.Glob(filepath.Join(dir, c.folder))
		for _, d := range containerds {
			endTasks(filepath.Join(string(root), c.ctr), d)
		}
	}
}

// endTasks ends the containers of the containerd in dir in the orderly way if it
// still answers: shims then remove their sockets, which are outside of the lab.
func endTasks(ctr, dir string) {
	tasks, _ := filepath.Glob(filepath.Join(dir, "state/io.containerd.runtime.v2.task/*/*"))
	for _, t := range tasks {
		ns, id := filepath.Base(filepath.Dir(t)), filepath.Base(t)
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		// What does not end so is killed.
		_ = exec.CommandContext(ctx, ctr, "-a", filepath.Join(dir, "containerd.sock"), "--timeout", "5s", "-n", ns, "tasks", "rm", "-f", id).Run()
		cancel()
	}
}

func unmount(dir string) error {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	slices.Reverse(mounts)
	for _, m := range mounts {
		if e := syscall.Unmount(m.Mountpoint, syscall.MNT_DETACH|0x8 /* UMOUNT_NOFOLLOW */); e != nil {
			err = errors.Join(err, fmt.Errorf("unmount %s: %w", m.Mountpoint, e))
		}
	}
	return err
}
