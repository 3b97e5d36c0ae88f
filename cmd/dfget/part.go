package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// errOutput reports that the file cannot be written.
var errOutput = errors.New("the file cannot be written")

// part is what has come of a file, beside where that is to be.
type part struct {
	to     string
	out    io.Writer // instead of a file; then nothing can be taken back, unless it is a renewer
	file   *os.File
	size   int64
	failed bool          // it takes no bytes
	want   digest.Digest // "": nothing
	sums   digesters     // of what went out
}

// state is kept beside a part: what it is a part of.
type state struct {
	Version string `json:"version"`
	Boot    string `json:"boot"` // of the kernel that had the bytes
}

// openPart opens what is there of a file that is to match want, or begins one. "-"
// is out.
func openPart(to string, out io.Writer, want digest.Digest) (*part, error) {
	if to == "-" {
		return &part{to: to, out: out, want: want, sums: newDigesters(want)}, nil
	}
	p := &part{to: to, want: want}
	f, err := os.OpenFile(p.beside(""), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o666)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errOutput, err)
	}
	if err := ours(f); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", errOutput, err), f.Close())
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: another dfget is downloading to %s", errOutput, to), f.Close())
	}
	p.file = f
	if p.size, err = f.Seek(0, io.SeekEnd); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", errOutput, err), f.Close())
	}
	return p, nil
}

// ours refuses what somebody else may have put where a part is to be: they could
// change the file after it was checked.
func ours(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || int(st.Uid) != os.Geteuid() || st.Nlink != 1 {
		return fmt.Errorf("%s is not a file of this user alone: remove it", f.Name())
	}
	return nil
}

func (p *part) beside(end string) string {
	dir, name := filepath.Split(p.to)
	return filepath.Join(dir, "."+name+".dfget"+end)
}

func (p *part) write(data []byte) error {
	var n int
	var err error
	if p.file == nil {
		n, err = p.out.Write(data)
		p.sums.write(data[:n])
	} else {
		n, err = p.file.WriteAt(data, p.size)
	}
	p.size += int64(n)
	if err != nil {
		p.failed = true
		return fmt.Errorf("%w: %w", errOutput, err)
	}
	return nil
}

// digests returns the digests of what is there.
func (p *part) digests() (digesters, error) {
	sums := p.sums
	if p.file != nil {
		sums = newDigesters(p.want)
		buf := make([]byte, 256<<10)
		r := io.NewSectionReader(p.file, 0, p.size)
		for {
			n, err := r.Read(buf)
			sums.write(buf[:n])
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, fmt.Errorf("%w: %w", errOutput, err)
			}
		}
	}
	return sums, nil
}

// digesters hash by SHA-256, and by the algorithm of a digest to compare with.
type digesters map[digest.Algorithm]digest.Digester

func newDigesters(want digest.Digest) digesters {
	d := digesters{digest.SHA256: digest.SHA256.Digester()}
	if want != "" {
		d[want.Algorithm()] = want.Algorithm().Digester()
	}
	return d
}

// sha256 is what results say.
func (d digesters) sha256() digest.Digest { return d[digest.SHA256].Digest() }

func (d digesters) write(p []byte) {
	for _, a := range d {
		_, _ = a.Hash().Write(p) // a hash takes everything
	}
}

// renewer is what can begin anew.
type renewer interface{ Anew() error }

var errWritten = fmt.Errorf("%w: bytes were written that are not right, and cannot be taken back", errOutput)

// restart throws away what is there.
func (p *part) restart() error {
	switch {
	case p.size == 0:
		return nil
	case p.file == nil:
		out, ok := p.out.(renewer)
		if !ok || out.Anew() != nil {
			p.failed = true
			return errWritten
		}
		p.size, p.sums = 0, newDigesters(p.want)
		return nil
	}
	p.size = 0
	if err := errors.Join(p.file.Truncate(0), removed(p.beside(".json"))); err != nil {
		p.failed = true
		return fmt.Errorf("%w: %w", errOutput, err)
	}
	return nil
}

func removed(path string) error {
	if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// canGoOn reports whether a further try may add to what is there.
func (p *part) canGoOn() bool { return p.file != nil || p.size == 0 }

// of keeps what is there if it is the beginning of this version of the file. With
// checked set the whole is compared with a digest, so that it may be tried.
func (p *part) of(version string, checked bool) error {
	if p.file == nil {
		return p.restart()
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		boot = nil // then no state is ever trusted
	}
	now := state{version, strings.TrimSpace(string(boot))}
	var was state
	text, err := os.ReadFile(p.beside(".json"))
	known := err == nil && json.Unmarshal(text, &was) == nil && was == now && now.Boot != ""
	if !known && !checked {
		if err := p.restart(); err != nil {
			return err
		}
	}
	if text, err = json.Marshal(now); err == nil {
		err = os.WriteFile(p.beside(".json"), text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errOutput, err)
	}
	return nil
}

// commit gives the file its name.
func (p *part) commit() error {
	if p.file == nil {
		return nil
	}
	err := errors.Join(p.file.Truncate(p.size), p.file.Sync(), os.Rename(p.beside(""), p.to), removed(p.beside(".json")))
	if err != nil {
		return fmt.Errorf("%w: %w", errOutput, err)
	}
	return nil
}

// close leaves what is there for the next call, unless that is nothing.
func (p *part) close() error {
	if p.file == nil {
		return nil
	}
	if p.size == 0 {
		if fi, err := os.Lstat(p.beside("")); err == nil && fi.Size() == 0 {
			_ = errors.Join(removed(p.beside("")), removed(p.beside(".json"))) // no harm if they stay
		}
	}
	return p.file.Close()
}
