package peer

import (
	"log/slog"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// fair is how connections find out how fast they may send. Children share this host's
// line: what is theirs by turns they should get at the same pace, or all others wait for
// the one that gets least. BBR, which some hosts use for everything, leaves a connection
// that once had little with little for as long as the line is full.
const fair = "cubic"

// shareEvenly makes connections that ln accepts share the line. Where the kernel does
// not have or allow that they are as all others.
func shareEvenly(ln net.Listener, log *slog.Logger) {
	l, ok := ln.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := l.SyscallConn()
	if err == nil {
		var serr error
		err = raw.Control(func(fd uintptr) {
			serr = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, fair)
		})
		if err == nil {
			err = serr
		}
	}
	if err != nil {
		log.Debug("connections share the line as the system has it", "err", err)
	}
}
