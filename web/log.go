package web

import (
	"strconv"

	"hallmark/api/adminapi"
)

// defaultLeaves is how many indexes a page of the log covers if the caller does
// not say.
const defaultLeaves = 500

// number is a whole number of the query, which the contract checked.
func (c *call) number(name string, otherwise int64) int64 {
	text := c.query.Get(name)
	if text == "" {
		return otherwise
	}
	n, _ := strconv.ParseInt(text, 10, 64)
	return n
}

func (p *people) listLogLeaves(c *call) (any, error) {
	items, err := p.Backend.Log.Leaves(c.Request().Context(), c.scope, c.number("from", 0), int(c.number("limit", defaultLeaves)))
	return adminapi.LogLeafPage{Items: list(items)}, err
}

func (p *people) listOrderLeaves(c *call) (any, error) {
	page, err := c.page()
	if err != nil {
		return nil, err
	}
	items, next, err := p.Backend.Log.OrderLeaves(c.Request().Context(), c.scope, c.Param("order"), page)
	return adminapi.LogLeafPage{Items: list(items), Next: c.next(next)}, err
}

func (p *people) getOrderReport(c *call) (any, error) {
	return p.Backend.Log.OrderReport(c.Request().Context(), c.scope, c.Param("order"))
}

func (p *people) getReceipt(c *call) (any, error) {
	return p.Backend.Log.Receipt(c.Request().Context(), c.scope, c.Param("serial"), c.number("size", 0))
}
