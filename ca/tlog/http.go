package tlog

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
)

const (
	// A full tile never changes. A partial one neither, but is of no use soon,
	// and the checkpoint is the news itself.
	cacheForever = "public, max-age=31536000, immutable"
	cacheShort   = "public, max-age=60"
	cacheNews    = "public, max-age=5"
)

// Handler serves /checkpoint and /tile/… as C2SP tlog-tiles lays them out. Both
// are public: they hold hashes only. Entries are not served.
func (l *Log) Handler() http.Handler { return l.HandlerOf(l.Source().Note) }

// HandlerOf is [Log.Handler] with a checkpoint of the caller's choice, such as
// the newest that witnesses signed.
func (l *Log) HandlerOf(note func(ctx context.Context) ([]byte, error)) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /checkpoint", func(w http.ResponseWriter, r *http.Request) {
		signed, err := note(r.Context())
		if err != nil {
			l.refuse(w, r, err)
			return
		}
		serve(w, "text/plain; charset=utf-8", cacheNews, signed)
	})
	mux.HandleFunc("GET /tile/", func(w http.ResponseWriter, r *http.Request) {
		level, index, width, err := ParseTilePath(strings.TrimPrefix(r.URL.Path, "/"))
		if err != nil {
			l.refuse(w, r, err)
			return
		}
		hashes, err := l.store.Tile(r.Context(), level, index)
		if err == nil && len(hashes) < width*hashSize {
			err = ErrTilePath.New("")
		}
		if err != nil {
			l.refuse(w, r, err)
			return
		}
		cache := cacheForever
		if width < tileWidth {
			cache = cacheShort
		}
		serve(w, "application/octet-stream", cache, hashes[:width*hashSize])
	})
	return mux
}

func serve(w http.ResponseWriter, kind, cache string, body []byte) {
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Cache-Control", cache)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Write(body)
}

// refuse answers in plain text: the readers of this handler are programs that
// look at the status.
func (l *Log) refuse(w http.ResponseWriter, r *http.Request, err error) {
	w.Header().Set("Cache-Control", "no-store")
	if errors.Is(err, ErrTilePath) || errors.Is(err, ErrPending) {
		http.Error(w, "not found", http.StatusNotFound)
		return
	}
	l.log.LogAttrs(r.Context(), slog.LevelError, "log read failed", slog.String("path", r.URL.Path), slog.Any("error", err))
	http.Error(w, "unavailable", http.StatusServiceUnavailable)
}
