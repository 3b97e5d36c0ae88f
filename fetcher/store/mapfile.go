package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
)

const (
	mapMagic  = "dfblobm1"
	mapHeader = len(mapMagic) + 4 + bootSize + 8 + 4
	mapEntry  = 16
	bootSize  = 36

	flagVerified = 1 << 0
)

// boot names one run of the kernel; all zero in a durable map.
type boot [bootSize]byte

// blobMap is what a map file says.
type blobMap struct {
	boot     boot
	size     int64
	verified bool
	have     ranges
}

var errBadMap = errors.New("bad map file")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encode lays a map out as: magic, flags, boot, size, number of ranges, ranges
// as (offset, length), CRC-32C of all before; numbers little-endian.
func (m blobMap) encode() []byte {
	b := make([]byte, 0, mapHeader+mapEntry*len(m.have)+4)
	b = append(b, mapMagic...)
	var flags uint32
	if m.verified {
		flags |= flagVerified
	}
	b = binary.LittleEndian.AppendUint32(b, flags)
	b = append(b, m.boot[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(m.size))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(m.have)))
	for _, r := range m.have {
		b = binary.LittleEndian.AppendUint64(b, uint64(r.Off))
		b = binary.LittleEndian.AppendUint64(b, uint64(r.Len))
	}
	return append(b, checksum(b)...)
}

func checksum(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(nil, crc32.Checksum(b, castagnoli))
}

// decodeMap is the strict inverse of encode.
func decodeMap(b []byte) (blobMap, error) {
	var m blobMap
	if len(b) < mapHeader+4 || !bytes.HasPrefix(b, []byte(mapMagic)) {
		return m, errBadMap
	}
	body, sum := b[:len(b)-4], b[len(b)-4:]
	if !bytes.Equal(checksum(body), sum) {
		return m, fmt.Errorf("%w: checksum", errBadMap)
	}
	p := body[len(mapMagic):]
	flags := binary.LittleEndian.Uint32(p)
	p = p[4:]
	p = p[copy(m.boot[:], p):]
	m.size = int64(binary.LittleEndian.Uint64(p))
	n := int(binary.LittleEndian.Uint32(p[8:]))
	p = p[12:]
	if flags&^flagVerified != 0 || m.size < 0 || len(p) != n*mapEntry {
		return m, fmt.Errorf("%w: header", errBadMap)
	}
	m.have = make(ranges, n)
	prev := int64(-1)
	for i := range m.have {
		r := Range{int64(binary.LittleEndian.Uint64(p[i*mapEntry:])), int64(binary.LittleEndian.Uint64(p[i*mapEntry+8:]))}
		if r.Off <= prev || r.Len <= 0 || r.Len > m.size || r.Off > m.size-r.Len {
			return m, fmt.Errorf("%w: range %d", errBadMap, i)
		}
		m.have[i], prev = r, r.End()
	}
	m.verified = flags&flagVerified != 0
	if m.verified && m.have.bytes() != m.size {
		return m, fmt.Errorf("%w: verified but not complete", errBadMap)
	}
	return m, nil
}

// writeMap replaces the file name in dir; with durable set it is synced before
// it takes the old one's place.
func writeMap(dir, name string, m blobMap, durable bool) (err error) {
	tmp := filepath.Join(dir, name+".tmp")
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(m.encode())
	if err == nil && durable {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp, filepath.Join(dir, name))
	}
	return err
}

// readMap returns the map that holds for the blob folder dir under the kernel
// run now: map.boot if it is of this run, else map.
func readMap(dir string, now boot) (blobMap, error) {
	if b, err := os.ReadFile(filepath.Join(dir, bootMapName)); err == nil {
		if m, err := decodeMap(b); err == nil && m.boot == now && now != (boot{}) {
			return m, nil
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, mapName))
	if err != nil {
		return blobMap{}, err
	}
	m, err := decodeMap(b)
	if err == nil && m.boot != (boot{}) {
		err = fmt.Errorf("%w: not a durable one", errBadMap)
	}
	return m, err
}

// bootID names the running kernel; all zero (no map.boot is ever believed) if
// the kernel does not say.
func bootID() boot {
	var id boot
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if b = bytes.TrimSpace(b); err != nil || len(b) != bootSize {
		return boot{}
	}
	copy(id[:], b)
	return id
}
