package main

import (
	"context"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/ca/tlog"
	"hallmark/internal/fault"
	"hallmark/internal/fsck"
	"hallmark/store"
	"hallmark/web"
)

var _ web.Trail = (*backend)(nil)

func trailView(r *access.TrailRow) adminapi.TrailRow {
	v := adminapi.TrailRow{Seq: r.Seq, Hash: hex.EncodeToString(r.Hash[:]), Entry: r.Entry}
	if r.Entry == nil {
		v.Digest = hex.EncodeToString(r.Digest[:])
	}
	return v
}

// Trail implements [web.Trail].
func (b *backend) Trail(ctx context.Context, s access.Scope, q web.TrailQuery, p web.Page) ([]adminapi.TrailRow, string, error) {
	var before int64
	if p.After != "" {
		var err error
		if before, err = strconv.ParseInt(p.After, 10, 64); err != nil {
			return nil, "", web.ErrCursor.New("")
		}
	}
	query := store.TrailQuery{Actor: q.Actor, Action: q.Action}
	if q.Since > 0 {
		query.Since = time.Unix(q.Since, 0)
	}
	if q.Until > 0 {
		query.Until = time.Unix(q.Until, 0)
	}
	rows, err := b.db.Trail(ctx, s, query, before, p.Limit+1)
	if err != nil || len(rows) <= p.Limit {
		return mapped(rows, trailView), "", err
	}
	rows = rows[:p.Limit]
	return mapped(rows, trailView), strconv.FormatInt(rows[p.Limit-1].Seq, 10), nil
}

// TrailRows implements [web.Trail].
func (b *backend) TrailRows(ctx context.Context, s access.Scope, from int64, limit int) ([]adminapi.TrailRow, error) {
	rows, err := b.db.TrailRows(ctx, s, from, limit)
	return mapped(rows, trailView), err
}

// trailLine puts the trail's head into every checkpoint of the log, so that it is
// published and witnessed with it.
func (s *Server) trailLine(ctx context.Context) (string, error) {
	h, err := s.db.TrailHead(ctx)
	return h.Line(), err
}

// trailOf is what a checkpoint, whose signature was checked, says of the trail.
func trailOf(note []byte) (access.TrailHead, error) {
	c, err := tlog.ReadCheckpoint(note)
	if err != nil {
		return access.TrailHead{}, err
	}
	return access.ParseTrailHead(c.More)
}

// checkTrailAgainst compares the trail with a checkpoint that was kept elsewhere.
func checkTrailAgainst(ctx context.Context, db *store.DB, note []byte) error {
	h, err := trailOf(note)
	if err != nil {
		return err
	}
	return db.CheckTrailAgainst(ctx, h)
}

// checkTrail is fsck's part: the chain, and what every checkpoint at hand signed of it.
func checkTrail(ctx context.Context, log *tlog.Log, db *store.DB, cfg *Config) (out []fsck.Finding, _ error) {
	add := func(object string, err error) {
		f := fault.From(err)
		out = append(out, fsck.Finding{Check: "trail", Object: object, Detail: f.What + " " + f.Detail})
	}
	var signed []access.TrailHead
	take := func(name string, note []byte, err error) {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, tlog.ErrPending) || err == nil && len(note) == 0 {
			return
		}
		var h access.TrailHead
		if err == nil {
			_, err = tlog.ParseCheckpoint(note, log.VerifierKey())
		}
		if err == nil {
			h, err = trailOf(note)
		}
		if err != nil {
			add("checkpoint "+name, err)
			return
		}
		signed = append(signed, h)
	}
	c, err := log.Checkpoint(ctx)
	take("in the database", c.Note, err)
	files := append([]string{filepath.Join(cfg.State, "checkpoint"), filepath.Join(cfg.State, "checkpoint.witnessed")}, cfg.Log.CheckpointFiles...)
	if cfg.Log.Publish != "" {
		files = append(files, filepath.Join(cfg.Log.Publish, "checkpoint"))
	}
	for _, name := range files {
		note, err := os.ReadFile(name)
		take(name, note, err)
	}
	if _, err := db.VerifyTrail(ctx, signed...); err != nil {
		add("table trail", err)
	}
	return out, nil
}
