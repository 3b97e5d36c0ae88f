package fs

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/dfsnapshotter/dfsnapshotter/fs/keeper"
)

// errInit says that this program's FUSE library would agree on something else with the
// kernel than was agreed when the mount was made, so it cannot serve it. The program
// that made it can; or nobody, once the mount is unmounted.
var errInit = errors.New("the mount was made with settings that this version cannot serve")

const (
	pageSize     = 4096
	readOnlyMax  = 4096 // max_write: nothing is ever written, and requests stay small
	requestBytes = 40   // header of a request
	replyBytes   = 16   // header of a reply
	notifyResend = 7
	opInit       = 26
)

// initReply is what follows the header in a reply to INIT.
type initReply struct {
	Major, Minor, MaxReadAhead, Flags  uint32
	MaxBackground, CongestionThreshold uint16
	MaxWrite, TimeGran                 uint32
	MaxPages, MapAlignment             uint16
	Flags2, MaxStackDepth              uint32
	RequestTimeout                     uint16
	Unused                             [11]uint16
}

func (r *initReply) flags() uint64 { return uint64(r.Flags) | uint64(r.Flags2)<<32 }

func decodeReply(b []byte) (r initReply, err error) {
	if len(b) < replyBytes || binary.NativeEndian.Uint32(b[4:]) != 0 {
		return r, fmt.Errorf("INIT was refused: % x", b)
	}
	_, err = binary.Decode(b[replyBytes:], binary.NativeEndian, &r)
	return r, err
}

// checkInit makes sure that b is the kernel's INIT.
func checkInit(b []byte) error {
	if len(b) < requestBytes+20 || binary.NativeEndian.Uint32(b[4:]) != opInit {
		return fmt.Errorf("the kernel's first request is not INIT: % x", b[:min(len(b), requestBytes)])
	}
	return nil
}

// canResend reports whether the kernel that sent INIT sends unanswered requests again.
func canResend(init []byte) bool {
	flags := uint64(binary.NativeEndian.Uint32(init[requestBytes+12:]))
	flags |= uint64(binary.NativeEndian.Uint32(init[requestBytes+16:])) << 32
	return flags&fuse.CAP_INIT_EXT != 0 && flags&fuse.CAP_HAS_RESEND != 0
}

// resendMessage asks the kernel for all requests that were read and not answered.
func resendMessage() []byte {
	b := make([]byte, replyBytes)
	binary.NativeEndian.PutUint32(b[0:], replyBytes)
	binary.NativeEndian.PutUint32(b[4:], notifyResend)
	return b
}

// initServer makes a server that has seen the kernel's INIT, over a socket pair: fd,
// which is its own, is to be replaced by the real connection before it serves. For a
// new mount, fresh gets the reply; else the reply must be what the kernel was told.
func (s *session) initServer(fresh func(reply []byte) error) (srv *fuse.Server, fd int, err error) {
	options := s.newOptions()
	pages := s.o.MaxRead / pageSize
	var told initReply
	if fresh == nil {
		if told, err = decodeReply(s.held.Reply); err != nil {
			return nil, -1, err
		}
		options, pages = s.toldOptions(told), int(told.MaxPages)
	} else if s.held.Relay {
		pages = min(pages, keeper.MaxRelayRead/pageSize)
	}
	srv, fd, reply, err := s.replay(options)
	if err != nil {
		return nil, -1, err
	}
	if err = settle(reply, pages); err == nil {
		if fresh != nil {
			err = fresh(reply)
		} else {
			err = compare(reply, s.held.Reply)
		}
	}
	if err != nil {
		discard(srv, fd)
		return nil, -1, err
	}
	return srv, fd, nil
}

// replay lets go-fuse answer the kernel's INIT.
func (s *session) replay(options *fuse.MountOptions) (srv *fuse.Server, fd int, reply []byte, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, -1, nil, os.NewSyscallError("socketpair", err)
	}
	defer unix.Close(pair[1])
	if _, err := unix.Write(pair[1], s.held.Init); err != nil {
		unix.Close(pair[0])
		return nil, -1, nil, fmt.Errorf("replay INIT: %w", err)
	}
	srv, err = fuse.NewServer(s.raw, fmt.Sprintf("/dev/fd/%d", pair[0]), options) // owns pair[0]
	if err != nil {
		return nil, -1, nil, fmt.Errorf("replay INIT: %w", err)
	}
	buf := make([]byte, keeper.MaxRequest)
	n, _, err := unix.Recvfrom(pair[1], buf, unix.MSG_DONTWAIT)
	if err != nil {
		discard(srv, pair[0])
		return nil, -1, nil, fmt.Errorf("replay INIT: %w", err)
	}
	return srv, pair[0], buf[:n], nil
}

// newOptions are those of a new mount. READDIRPLUS is on, and not "auto", by default.
func (s *session) newOptions() *fuse.MountOptions {
	return &fuse.MountOptions{
		Logger:                   s.logger(),
		MaxBackground:            maxBackground,
		MaxWrite:                 readOnlyMax,
		MaxReadAhead:             cmp.Or(s.o.ReadAhead, defaultMaxRead),
		EnableSymlinkCaching:     true,
		ExplicitDataCacheControl: true, // images never change
		IDMappedMount:            true, // where the kernel can
		EnableAcl:                s.o.ACL,
		DisableSplice:            s.held.Relay,
	}
}

// toldOptions make go-fuse answer as told.
func (s *session) toldOptions(told initReply) *fuse.MountOptions {
	o := s.newOptions()
	o.MaxBackground = int(told.MaxBackground)
	o.CongestionThreshold = int(told.CongestionThreshold)
	o.MaxReadAhead = int(told.MaxReadAhead)
	o.IDMappedMount = told.flags()&fuse.CAP_ALLOW_IDMAP != 0
	o.EnableAcl = told.flags()&fuse.CAP_POSIX_ACL != 0
	o.ExtraCapabilities = told.flags()
	o.DisabledCapabilities = ^told.flags()
	return o
}

// settle sets in a reply what go-fuse cannot be told: it takes max_pages, which limits
// READ, from max_write, which here is small so that the buffers of its readers are.
func settle(reply []byte, pages int) error {
	r, err := decodeReply(reply)
	if err != nil {
		return err
	}
	r.MaxPages = uint16(pages)
	_, err = binary.Encode(reply[replyBytes:], binary.NativeEndian, &r)
	return err
}

// compare returns an error that names what differs between two replies to INIT.
func compare(reply, told []byte) error {
	if bytes.Equal(reply, told) {
		return nil
	}
	a, err := decodeReply(reply)
	if err != nil {
		return err
	}
	b, err := decodeReply(told)
	if err != nil {
		return err
	}
	var diff []string
	for _, f := range []struct {
		name       string
		here, told uint64
	}{
		{"minor version", uint64(a.Minor), uint64(b.Minor)},
		{"flags", a.flags(), b.flags()},
		{"max_write", uint64(a.MaxWrite), uint64(b.MaxWrite)},
		{"max_pages", uint64(a.MaxPages), uint64(b.MaxPages)},
		{"time_gran", uint64(a.TimeGran), uint64(b.TimeGran)},
		{"map_alignment", uint64(a.MapAlignment), uint64(b.MapAlignment)},
		{"max_stack_depth", uint64(a.MaxStackDepth), uint64(b.MaxStackDepth)},
		{"request_timeout", uint64(a.RequestTimeout), uint64(b.RequestTimeout)},
	} {
		if f.here != f.told {
			diff = append(diff, fmt.Sprintf("%s is %#x here and was %#x", f.name, f.here, f.told))
		}
	}
	if diff == nil { // max_background and max_readahead are limits of the kernel's own
		return nil
	}
	return fmt.Errorf("%w: %s", errInit, strings.Join(diff, ", "))
}
