package web

func (p *people) getBackup(c *call) (any, error) {
	return p.Backend.Backup.BackupState(c.Request().Context())
}

func (p *people) makeBackup(c *call) (any, error) {
	return p.Backend.Backup.MakeBackup(c.Request().Context(), c.actor)
}
