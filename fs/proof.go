package fs

// A layer whose index has no digests of content, since it came from a ztoc, gets one
// that has from the comparison with its blob: for the next time, and for others.

// proofSpacing is index.Options.Spacing for the index that the layer is compared with.
func (l *Layer) proofSpacing() int64 {
	if l.index.Info().Hashes() {
		return noSpans
	}
	return 0 // as of any index
}

// keepProof keeps the index at path, which was made of the whole blob, if it is
// better than the layer's own.
func (l *Layer) keepProof(path string) {
	if !l.index.Info().Hashes() {
		l.fs.indexes.Keep(l.rec.Blob, path)
	}
}
