"""cryobox as a job of other programs: RELION's External job, and CryoSPARC's external job."""
